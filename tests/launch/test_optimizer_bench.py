"""The bench of optimizers: its text, its table, and one short run."""

from argparse import Namespace

import jax
import numpy as np
import pytest

from data_pipeline.component import components_in
from launch.bench.optimizers import (
    TUNED,
    Outcome,
    batches,
    bench_optimizers,
    header,
    line,
    optimizers,
    text_bytes,
    train,
)
from tests.examples import ONE_DEVICE, under


def test_every_optimizer_is_in_the_table():
    assert set(TUNED) == set(components_in("trainer.optimizers"))


def test_rows_are_of_the_text_and_the_same_for_every_optimizer():
    text, held_out = text_bytes()
    assert len(text) > 15 * len(held_out) > 1_000_000
    with jax.set_mesh(under(ONE_DEVICE)):
        once, again = (next(batches(text, rows=3, length=7, seed=1)) for _ in range(2))
    np.testing.assert_array_equal(once.tokens_BL, again.tokens_BL)
    np.testing.assert_array_equal(once.tokens_BL[:, 1:], once.targets_BL[:, :-1])
    assert all(bytes(np.asarray(row, np.uint8)) in text.tobytes() for row in once.tokens_BL)


def test_a_short_run_learns_and_reports_its_state():
    with jax.set_mesh(under(ONE_DEVICE)):
        found = train(optimizers()["Lion"], steps=12)
    assert (
        found.whole < found.half < found.quarter < 6
        and found.step_s > 0
        and 4 * 160_000 < found.state_bytes < 4 * 170_000
    )


def test_the_table_has_a_column_for_each_figure():
    assert {"102k", "205k", "410k"} <= set(header(400).split())
    figures = line("Lion", Outcome(2.5, 2.25, 2.125, 0.01, 1_500_000), 400).split()
    assert figures == ["Lion", "2.500", "2.250", "2.125", "10.0", "4.0", "1.50"]


def test_too_few_steps_are_refused():
    with pytest.raises(ValueError, match="--steps 39: must be at least 40"):
        bench_optimizers(Namespace(steps=39, json=False))
