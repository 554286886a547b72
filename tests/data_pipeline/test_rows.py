"""Laws of rows: they decode back to their documents, every target once, whatever the packing."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.batch import PreferenceBatch, TokenBatch, fields_of
from data_pipeline.loader import PackedPairs, PackedShards
from data_pipeline.rows.pack import BestFit, ConcatenateAndSplit, OnePerRow
from data_pipeline.rows.packed import PackedRows
from data_pipeline.shards.record import Record, Sequence
from data_pipeline.shards.shards import append_shards
from tests.examples import random_documents, write_documents, write_pairs

L = 9
RNG = np.random.default_rng(0)
WEB = random_documents(
    RNG, [1, 2, L, L + 1, L + 2, 2 * L + 1, 2 * L + 2, *RNG.integers(2, 40, 30).tolist()]
)
PAIRS = [
    (*random_documents(RNG, lengths), 1)
    for lengths in ((3, 4), (2, 2), (9, 9), (5, 1), (6, 7), (2, 8), (4, 4), (20, 3))
]
STRATEGIES = [
    BestFit(),
    BestFit(overlap=3),
    OnePerRow(),
    OnePerRow(overlap=8),
    ConcatenateAndSplit(),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    write_documents(root / "web", WEB, first_target=3)
    write_pairs(root / "pairs", PAIRS)
    return root


@pytest.fixture(scope="module", params=STRATEGIES, ids=str)
def web(request, folder) -> PackedRows:
    return PackedRows(folder / "web", seq_len=L, strategy=request.param)


def test_rows_decode_back_to_their_documents_with_every_target_once(web):
    targets = {}
    for index in range(len(web)):
        row = web[index]
        for segment, origin in enumerate(web.origins("web", web.place(index)), 1):
            here, document = row["segments_L"] == segment, WEB[int(origin.document)]
            assert row["tokens_L"][here].tolist() == document[origin.start : origin.stop - 1]
            assert row["targets_L"][here].tolist() == document[origin.start + 1 : origin.stop]
            assert row["positions_L"][here].tolist() == list(range(here.sum()))
            for position in origin.start + 1 + np.flatnonzero(row["weight_L"][here]):
                targets[origin.document, position] = targets.get((origin.document, position), 0) + 1
    assert targets == {
        (str(i), position): 1
        for i, document in enumerate(WEB)
        for position in range(3, len(document))
    }


def test_segments_count_from_1_without_gaps_and_everything_behind_them_is_0(web):
    for row in map(web.__getitem__, range(len(web))):
        n = int((row["segments_L"] > 0).sum())
        assert (
            set(np.diff(row["segments_L"][:n], prepend=0).tolist()) <= {0, 1}
            and row["segments_L"][0] == 1
        )
        assert all(not x[n:].any() for x in row.values())


def test_rows_have_the_fields_shapes_and_dtypes_of_a_batch(web):
    data = PackedShards(folder=".", weights={"web": 1.0}, seq_len=L, batch_size=4)
    assert data.sizes() == {"B": 4, "L": L}
    assert {name.replace("_L", "_BL") for name in web[0]} == set(TokenBatch._fields)
    assert {name: (x.shape, x.dtype.name) for name, x in web[0].items()} == {
        name: ((L,), "float32" if name == "weight_L" else "int32") for name in web[0]
    }


def test_the_overlap_is_read_and_is_no_target(folder):
    rows = PackedRows(folder / "web", seq_len=L, strategy=BestFit(overlap=3))
    starts = []
    for index in range(len(rows)):
        for segment, origin in enumerate(rows.origins("web", rows.place(index)), 1):
            if origin.start:
                starts.append(origin.start)
                assert not rows[index]["weight_L"][rows[index]["segments_L"] == segment][:3].any()
    assert starts and all(start % (L - 3) == 0 for start in starts)


@settings(max_examples=40)
@given(data=st.data())
def test_a_part_of_a_row_is_that_part_of_the_whole_row(web, data):
    start = data.draw(st.integers(0, L - 1))
    positions = slice(start, data.draw(st.integers(start + 1, L)))
    places = [
        web.place(i)
        for i in data.draw(st.lists(st.integers(0, len(web) - 1), min_size=1, max_size=4))
    ]
    for part, row in zip(web.read(places, positions), web.read(places, slice(0, L)), strict=True):
        for name, x in row.items():
            np.testing.assert_array_equal(part[name], x[positions], err_msg=name)


def test_only_documents_that_reach_into_the_asked_part_are_read(folder, tmp_path):
    rows = PackedRows(write_documents(tmp_path / "web", [[1] * 6, [2] * 5]), seq_len=L)
    (row,) = rows.read([rows.place(0)], slice(0, 5))
    path = next((tmp_path / "web").glob("*.arrayrecord"))
    path.write_bytes(path.read_bytes())
    read = []
    real = rows.shards.read
    rows.shards.read = lambda wanted: read.extend(wanted) or real(wanted)
    rows.read([rows.place(0)], slice(0, 5))
    rows.read([rows.place(0)], slice(5, 9))
    assert [int(i) for i in read] == [0, 1] and set(row["tokens_L"].tolist()) == {1}


def test_a_row_outside_is_refused(web):
    for index in (-1, len(web)):
        with pytest.raises(IndexError, match=f"row {index} of .*web, which has {len(web)}"):
            web[index]


def test_rows_are_pickled_as_what_they_are_made_of(web):
    again = pickle.loads(pickle.dumps(web))
    assert again.fingerprint == web.fingerprint and len(pickle.dumps(web)) < 2000
    assert all(np.array_equal(again[3][name], x) for name, x in web[3].items())


def test_the_fingerprint_changes_with_the_strategy_and_the_row_length(folder):
    prints = {
        PackedRows(folder / "web", seq_len=n, strategy=strategy).fingerprint
        for n in (L, L + 1)
        for strategy in STRATEGIES
    }
    assert len(prints) == 2 * len(STRATEGIES)


def test_an_appended_segment_has_its_rows_behind_those_that_were(tmp_path):
    write_documents(tmp_path / "web", WEB[:20])
    before = PackedRows(tmp_path / "web", seq_len=L)
    rows = [before[i]["tokens_L"].tolist() for i in range(len(before))]
    more = [
        Record(str(20 + i), (Sequence(np.array(x, np.int32), np.ones(len(x), np.uint8)),))
        for i, x in enumerate(WEB[20:])
    ]
    append_shards(tmp_path / "web", more, source="web", n_bytes=1, shard_records=5, lineage={})
    after = PackedRows(tmp_path / "web", seq_len=L)
    assert [after[i]["tokens_L"].tolist() for i in range(len(before))] == rows and len(after) > len(
        before
    )
    assert (
        after.segments[0].fingerprint == before.segments[0].fingerprint
        and after.fingerprint != before.fingerprint
    )
    seen = {
        o.document
        for i in range(len(before), len(after))
        for o in after.origins("web", after.place(i))
    }
    assert seen == {str(i) for i in range(20, len(WEB)) if len(WEB[i]) > 1}


def test_a_pair_has_its_chosen_answer_in_an_odd_segment_and_its_rejected_one_in_the_next(folder):
    rows = PackedRows(folder / "pairs", seq_len=16, pairs_per_row=3)
    seen = []
    for index in range(len(rows)):
        row, origins = rows[index], rows.origins("pairs", rows.place(index))
        assert row["pair_weight_P"].tolist() == [float(p < len(origins) / 2) for p in range(3)]
        for segment, origin in enumerate(origins, 1):
            seen.append((int(origin.document), origin.sequence))
            tokens, here = (
                PAIRS[int(origin.document)][origin.sequence],
                row["segments_L"] == segment,
            )
            assert (origin.start, origin.stop) == (0, len(tokens))
            assert (
                row["tokens_L"][here].tolist() == tokens[:-1]
                and row["targets_L"][here].tolist() == tokens[1:]
            )
            assert (
                row["positions_L"][here].tolist() == list(range(len(tokens) - 1))
                and row["weight_L"][here].all()
            )
    assert sorted(seen) == [
        (pair, side) for pair in range(7) for side in range(2)
    ]  # pair 7 is longer than a row


def test_pair_rows_have_the_fields_of_a_preference_batch(folder):
    data = PackedPairs(
        folder=".", weights={"pairs": 1.0}, seq_len=16, batch_size=4, pairs_per_row=3
    )
    rows = data.sources(folder)["pairs"]
    shapes = {
        name.replace("_B", "_"): field.shape(data.sizes())[1:]
        for name, field in fields_of(PreferenceBatch).items()
    }
    assert {name: x.shape for name, x in rows[0].items()} == shapes


def test_columns_are_further_fields_by_row(folder):
    rows = PackedRows(folder / "pairs", seq_len=16, pairs_per_row=3)
    rows.columns["reference_chosen_P"] = np.arange(len(rows) * 3.0).reshape(-1, 3)
    assert rows[1]["reference_chosen_P"].tolist() == [3.0, 4.0, 5.0]
    assert pickle.loads(pickle.dumps(rows))[1]["reference_chosen_P"].tolist() == [3.0, 4.0, 5.0]


def test_data_that_no_row_can_hold_is_refused_with_a_remedy(tmp_path):
    pairs = write_pairs(tmp_path / "pairs", [(list(range(1, 20)), [1, 2], 1)])
    with pytest.raises(
        ValueError,
        match="pairs holds no document that fits seq_len=16; raise seq_len or prepare more data",
    ):
        PackedRows(pairs, seq_len=16, pairs_per_row=2)
    with pytest.raises(ValueError, match="holds no document that fits seq_len=16"):
        PackedRows(write_documents(tmp_path / "web", [[1], [2]]), seq_len=16)


def test_dropout_leaves_other_documents_out_of_each_epoch_as_many_as_its_rate(tmp_path):
    n = 400
    rows = PackedRows(
        write_documents(tmp_path / "web", [[i % 7, 1, 2] for i in range(n)]),
        seq_len=6,
        dropout=0.25,
    )
    (segment,), seen = rows.segments, np.zeros((6, n), bool)
    for epoch in range(6):
        seen[epoch, segment.plan(epoch).pieces[:, 0]] = True
        assert len(segment.plan(epoch).pieces) == seen[epoch].sum()
    assert np.abs(seen.sum(1) - 300).max() < 40 and np.abs(seen.all(0).mean() - 0.75**6) < 0.08
    again = PackedRows(tmp_path / "web", seq_len=12, dropout=0.25).segments[0]
    assert (
        sorted(again.plan(3).pieces[:, 0]) == np.flatnonzero(seen[3]).tolist()
    )  # a function of document and epoch alone


def test_rows_of_epochs_of_different_lengths_are_counted_exactly(tmp_path):
    rows = PackedRows(
        write_documents(tmp_path / "web", [[i % 7, 1, 2] for i in range(40)]),
        seq_len=6,
        dropout=0.25,
    ).segments[0]
    sizes = [len(rows.plan(epoch)) for epoch in range(5)]
    assert len(set(sizes)) > 1
    assert [rows.epoch_of(i) for i in range(sum(sizes))] == [
        (e, i) for e, n in enumerate(sizes) for i in range(n)
    ]
    assert [rows.n_rows(e) for e in range(6)] == np.cumsum([0, *sizes]).tolist() and rows.n_rows(
        1.5
    ) == sizes[0] + sizes[1] // 2
