"""Laws of the loader: the hosts together read the sequence in order, from any position, whoever reads how
much of it.
"""

import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from data_pipeline.loader import PackedPairs, PackedShards
from data_pipeline.rows.mix import Schedule, Stage
from data_pipeline.rows.sequence import RowSequence
from data_pipeline.rows.stream import stream
from tests.examples import random_documents, write_documents

L = 9
RNG = np.random.default_rng(0)
SCHEDULE = Schedule(
    stages=(Stage(from_tokens=30 * L, weights={"books": 2.0, "web": 1.0}),),
    max_epochs={"code": 1.0},
)
DATA = PackedShards(
    folder=".", weights={"web": 3.0, "code": 1.0}, seq_len=L, batch_size=8, schedule=SCHEDULE
)


@pytest.fixture(scope="module")
def sequence(tmp_path_factory) -> RowSequence:
    root = tmp_path_factory.mktemp("shards")
    for name, n in (("web", 40), ("code", 11), ("books", 8)):
        write_documents(root / name, random_documents(RNG, RNG.integers(2, 40, n).tolist()))
    return RowSequence(DATA.sources(root), DATA.weights, 0, DATA.schedule)


def assert_rows(found: dict, sequence: RowSequence, indices: list[int]) -> None:
    for name, x in found.items():
        np.testing.assert_array_equal(x, [sequence[i][name] for i in indices], err_msg=name)


@pytest.mark.parametrize("n_hosts", [1, 2, 4, 8])
def test_rows_read_by_the_hosts_together_are_the_global_batches_in_order(n_hosts, sequence):
    """Across a stage, a cap and the ends of epochs."""
    B, first = 8, 5
    per_host = B // n_hosts
    streams = [
        stream(sequence, first, B, tuple(range(host * per_host, (host + 1) * per_host)))
        for host in range(n_hosts)
    ]
    for batch in range(9):
        read = [next(host) for host in streams]
        together = {name: np.concatenate([rows[name] for rows in read]) for name in read[0]}
        assert_rows(together, sequence, range(first + batch * B, first + batch * B + B))


def test_a_host_may_hold_rows_that_are_not_next_to_one_another_and_a_part_of_them(sequence):
    assert_rows(next(stream(sequence, 0, 8, (1, 2, 5, 6))), sequence, [1, 2, 5, 6])
    part = next(stream(sequence, 0, 8, (1, 6), positions=slice(3, 7)))
    np.testing.assert_array_equal(part["tokens_L"], [sequence[i]["tokens_L"][3:7] for i in (1, 6)])


@settings(max_examples=10)
@given(position=st.integers(0, 3000), batch_size=st.integers(1, 9))
def test_the_stream_from_a_position_is_the_stream_from_0_after_as_many_rows(
    sequence, position, batch_size
):
    rows = stream(sequence, position, batch_size, tuple(range(batch_size)))
    for first in (position, position + batch_size):
        assert_rows(next(rows), sequence, range(first, first + batch_size))


@pytest.mark.parametrize("processes", [0, pytest.param(1, marks=pytest.mark.slow), 2])
def test_the_stream_is_the_same_read_by_threads_or_any_number_of_processes(processes, sequence):
    rows = stream(sequence, 3, 8, (0, 1, 6, 7), processes=processes)
    for batch in range(5):
        assert_rows(next(rows), sequence, [3 + batch * 8 + i for i in (0, 1, 6, 7)])


def test_a_stream_ends_with_the_last_whole_batch(sequence):
    capped = RowSequence(sequence.sources, {"code": 1.0}, 0, Schedule(max_epochs={"code": 1.0}))
    assert capped.n_rows == len(sequence.sources["code"])
    assert len(list(stream(capped, 0, 4, (0, 1)))) == capped.n_rows // 4
    assert (
        list(stream(capped, capped.n_rows - 3, 4, (0, 1)))
        == []
        == list(stream(capped, capped.n_rows + 9, 4, (0, 1)))
    )


def test_a_stream_reads_only_a_few_batches_ahead(sequence):
    read = []

    class Watched(RowSequence):
        def read(self, indices, positions=None):
            read.extend(indices)
            return super().read(indices, positions)

    rows = stream(Watched(sequence.sources, {"web": 3.0, "code": 1.0}, 0), 0, 16, tuple(range(16)))
    next(rows)
    time.sleep(0.3)  # what the threads would read by themselves
    assert max(read) < 16 * 13


def test_sources_are_numbered_in_the_order_of_the_stages_that_name_them_first():
    assert DATA.source_names() == ["web", "code", "books"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": {"web": 0.0}}, "greater than 0"),
        ({"weights": {"web": -1.0}}, "greater than 0"),
        ({"seq_len": 0}, "greater than 0"),
        ({"batch_size": 2.5}, "integer"),
        ({"seed": 1}, "not permitted"),
        (
            {"packing": {"type": "BestFit", "overlap": 8}},
            "packing.overlap=8 must be less than seq_len=8; lower it",
        ),
        ({"fim": {"code": {"rate": 0.5}}}, "fim.code is no source of the mixture; choose of web"),
        ({"dropout": {"web": 1.0}}, "less than 1"),
        ({"schedule": {"max_epochs": {"books": 1.0}}}, "schedule.max_epochs.books is no source"),
        (
            {
                "schedule": {
                    "stages": [{"from_tokens": 9, "weights": {"a": 1.0}, "segments": {"b": 1}}]
                }
            },
            "schedule.stages.0.segments.b is no",
        ),
        ({"schedule": {"stages": [{"from_tokens": 0, "weights": {"web": 1.0}}]}}, "greater than 0"),
    ],
)
def test_settings_without_meaning_are_refused(change, message):
    given = {"folder": ".", "weights": {"web": 1.0}, "seq_len": 8, "batch_size": 2}
    with pytest.raises(ValidationError, match=message):
        PackedShards.model_validate_json(json.dumps({**given, **change}))
    if not {"fim", "dropout", "packing"} & set(change):
        with pytest.raises(ValidationError, match=message):
            PackedPairs.model_validate_json(json.dumps({**given, "pairs_per_row": 2, **change}))
