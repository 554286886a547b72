"""The blocked forms against the plain one: written out, and in loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.kernels import blocked, loops, plain
from tests.examples import ONE_DEVICE, quick_jit, under
from tests.model.kernel_cases import SETTINGS, Case, case, output_and_gradients, relative_errors


@pytest.mark.parametrize("name", SETTINGS)
def test_blocks_compute_what_plain_does(name):
    assert max(relative_errors(blocked.attend, case(L=150, B=3), SETTINGS[name])) < 1e-5


@pytest.mark.parametrize("name", SETTINGS)
def test_loops_compute_what_plain_does(name, monkeypatch):
    monkeypatch.setattr(blocked, "LOOP_FROM", 0)
    monkeypatch.setattr(blocked, "BLOCK", 16)
    monkeypatch.setattr(loops, "BLOCK", 16)
    assert max(relative_errors(blocked.attend, case(L=70, B=3), SETTINGS[name])) < 1e-5


def test_heads_are_divided():
    assert (
        max(
            relative_errors(
                blocked.attend,
                case(L=20, B=4),
                SETTINGS["causal"],
                {"data": 2, "stage": 2, "tensor": 2},
            )
        )
        < 1e-5
    )


@pytest.mark.parametrize("loop_from", [0, 4096])
def test_half_precision_stays_near(loop_from, monkeypatch):
    monkeypatch.setattr(blocked, "LOOP_FROM", loop_from)
    assert (
        max(relative_errors(blocked.attend, case(L=40, dtype="bfloat16"), SETTINGS["causal"]))
        < 1e-2
    )


@pytest.mark.parametrize("attend", [plain.attend, blocked.attend])
def test_rows_of_padding_alone_give_numbers(attend):
    inputs = case(L=12)._replace(
        positions_BL=np.zeros((2, 12), np.int32), segments_BL=np.zeros((2, 12), np.int32)
    )
    assert all(
        np.isfinite(x).all()
        for x in output_and_gradients(attend, inputs, SETTINGS["causal"], ONE_DEVICE)
    )


def test_no_scores_are_kept_for_the_backward_pass():
    inputs = Case(*map(jnp.asarray, case(L=256)))

    def attend(q, k, v):
        return blocked.attend(q, k, v, inputs.positions_BL, inputs.segments_BL, SETTINGS["causal"])

    with jax.set_mesh(under(ONE_DEVICE)):
        kept = quick_jit(lambda *qkv: jax.tree.leaves(jax.vjp(attend, *qkv)[1])).eval_shape(
            *inputs[:3]
        )
    assert kept and max(np.prod(x.shape) for x in kept) <= 2 * 256 * 4 * 6


def test_blocks_of_other_documents_and_outside_of_windows_are_not_visited(monkeypatch):
    monkeypatch.setattr(loops, "BLOCK", 8)
    positions_BL = jnp.arange(32)[None] % 20  # documents of 20 and 12 positions
    row = loops.Row(positions_BL, jnp.ones((1, 32), jnp.int32), (jnp.int32(0),))

    def seen(first, window):
        [(_, size, begin, end)] = loops.ranges_seen(
            positions_BL[:, first : first + 8], jnp.int32(first), row, window
        )
        return size, int(begin), int(end)

    assert [seen(first, None) for first in (0, 8, 16, 24)] == [
        (8, 0, 1),
        (8, 0, 2),
        (8, 0, 3),
        (8, 2, 4),
    ]
    assert seen(8, 3) == (8, 0, 2) and seen(16, 1) == (8, 2, 3)
