"""Laws of the loader: rows decode back to their documents, and a position is all that the sequence depends on."""

import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from data_pipeline.batch import PreferenceBatch, TokenBatch
from data_pipeline.loader import PackedPairs, PackedRows, PackedShards, RowSequence, stream
from tests.examples import random_documents, write_documents, write_pairs

L = 9
RNG = np.random.default_rng(0)
WEB = random_documents(RNG, [1, 2, L, L + 1, L + 2, 2 * L + 1, 2 * L + 2, *RNG.integers(2, 40, 30).tolist()])
CODE = random_documents(RNG, RNG.integers(2, 40, 11).tolist())
PAIRS = [(*random_documents(RNG, lengths), 1) for lengths in ((3, 4), (2, 2), (9, 9), (5, 1), (6, 7), (2, 8), (4, 4), (20, 3))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    write_documents(root / "web", WEB, first_target=3)
    write_documents(root / "code", CODE)
    write_pairs(root / "pairs", PAIRS)
    return root


@pytest.fixture(scope="module")
def web(folder) -> PackedRows:
    return PackedRows(folder / "web", seq_len=L)


@pytest.fixture(scope="module")
def sources(folder) -> dict[str, PackedRows]:
    return PackedShards(folder=".", weights={"web": 3.0, "code": 1.0}, seq_len=L, batch_size=4).sources(folder)


def sequence_of(sources: dict[str, PackedRows], seed: int = 0) -> RowSequence:
    return RowSequence(sources, {"web": 3.0, "code": 1.0}, seed)


def test_rows_decode_back_to_their_documents_with_every_target_once(web):
    targets = {}
    for index in range(len(web)):
        row = web[index]
        for segment, origin in enumerate(web.origins("web", index), 1):
            here, document = row["segments_L"] == segment, WEB[int(origin.document)]
            assert row["tokens_L"][here].tolist() == document[origin.start : origin.stop - 1]
            assert row["targets_L"][here].tolist() == document[origin.start + 1 : origin.stop]
            assert row["positions_L"][here].tolist() == list(range(here.sum()))
            for position in range(origin.start + 1, origin.stop):
                targets[origin.document, position] = targets.get((origin.document, position), 0) + 1
    assert targets == {(str(i), position): 1 for i, document in enumerate(WEB) for position in range(1, len(document))}


def test_weights_follow_the_targets(web):
    for index in range(len(web)):
        row = web[index]
        for segment, origin in enumerate(web.origins("web", index), 1):
            expected = [float(position >= 3) for position in range(origin.start + 1, origin.stop)]
            assert row["weight_L"][row["segments_L"] == segment].tolist() == expected


def test_segments_count_from_1_without_gaps_and_everything_behind_them_is_0(web):
    for row in map(web.__getitem__, range(len(web))):
        n = int((row["segments_L"] > 0).sum())
        assert set(np.diff(row["segments_L"][:n], prepend=0).tolist()) <= {0, 1} and row["segments_L"][0] == 1
        assert all(not x[n:].any() for x in row.values())


def test_rows_have_the_fields_shapes_and_dtypes_of_a_batch(web):
    data = PackedShards(folder=".", weights={"web": 1.0}, seq_len=L, batch_size=4)
    assert data.fields() == dict.fromkeys(TokenBatch._fields, (4, L))
    assert {name.replace("_L", "_BL") for name in web[0]} == set(TokenBatch._fields)
    assert {name: (x.shape, x.dtype.name) for name, x in web[0].items()} == {
        name: ((L,), "float32" if name == "weight_L" else "int32") for name in web[0]
    }


def test_a_row_of_the_sequence_is_a_row_of_the_source_that_the_mixture_names(sources):
    sequence = sequence_of(sources)
    seen = Counter()
    for i in range(200):
        source, row_index = sequence.place(i)
        row, plain = sequence[i], list(sources.values())[source][row_index]
        assert (row["source_L"] == source).all()
        assert all(np.array_equal(row[name], plain[name]) for name in plain if name != "source_L")
        seen[source] += 1
    assert 130 < seen[0] < 170


def test_each_epoch_of_a_source_has_every_row_once_in_another_order(sources):
    sequence, orders = sequence_of(sources), {0: [], 1: []}
    for i in range(1000):
        source, row_index = sequence.place(i)
        orders[source].append(row_index)
    for source, rows in enumerate(sources.values()):
        n = len(rows)
        epochs = [orders[source][e * n : (e + 1) * n] for e in range(4)]
        assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) == 4


def test_the_sequence_is_a_function_of_contents_weights_and_seed_alone(sources, folder, tmp_path):
    places = [sequence_of(sources).place(i) for i in range(300)]
    reopened = {name: PackedRows(folder / name, seq_len=L) for name in sources}
    assert [sequence_of(reopened).place(i) for i in reversed(range(300))] == places[::-1]
    assert [sequence_of(sources, seed=1).place(i) for i in range(300)] != places


def test_the_fingerprint_changes_with_contents_lengths_weights_and_seed_and_with_nothing_else(sources, folder, tmp_path):
    copied = {
        name: PackedRows(write_documents(tmp_path / name, docs, first_target=t), seq_len=L)
        for name, docs, t in (("web", WEB, 3), ("code", CODE, 1))
    }
    same = [sequence_of(sources), sequence_of(copied), RowSequence(sources, {"web": 0.75, "code": 0.25}, 0)]
    assert len({sequence.fingerprint for sequence in same}) == 1
    other_text = {**copied, "code": PackedRows(write_documents(tmp_path / "other", [*CODE[:-1], CODE[0]]), seq_len=L)}
    shorter = {name: PackedRows(folder / name, seq_len=L - 1) for name in sources}
    others = [
        sequence_of(sources, seed=1),
        sequence_of(other_text),
        sequence_of(shorter),
        RowSequence(sources, {"web": 1.0, "code": 1.0}, 0),
        RowSequence(dict(reversed(sources.items())), {"code": 1.0, "web": 3.0}, 0),
    ]
    assert len({sequence.fingerprint for sequence in (*same, *others)}) == 1 + len(others)


def test_origins_name_the_documents_of_any_row_past_or_future(sources):
    sequence = sequence_of(sources)
    for i in (0, 3, 10_007):
        row, texts = sequence[i], {"web": WEB, "code": CODE}
        found = [texts[o.source][int(o.document)][o.start : o.stop - 1] for o in sequence.origins(i)]
        assert sum(found, []) == row["tokens_L"][row["segments_L"] > 0].tolist()


@pytest.mark.parametrize("n_hosts", [1, 2, 4, 8])
def test_rows_read_by_the_hosts_together_are_the_global_batches_in_order(n_hosts, sources):
    sequence, B, first = sequence_of(sources), 8, 5
    per_host = B // n_hosts
    streams = [stream(sequence, first, B, tuple(range(host * per_host, (host + 1) * per_host))) for host in range(n_hosts)]
    for batch in range(3):
        tokens_BL = np.concatenate([next(host)["tokens_L"] for host in streams])
        np.testing.assert_array_equal(tokens_BL, [sequence[first + batch * B + b]["tokens_L"] for b in range(B)])


def test_a_host_may_hold_rows_that_are_not_next_to_one_another(sources):
    sequence = sequence_of(sources)
    rows = next(stream(sequence, 0, 8, (1, 2, 5, 6)))
    np.testing.assert_array_equal(rows["tokens_L"], [sequence[i]["tokens_L"] for i in (1, 2, 5, 6)])


@settings(deadline=None, max_examples=10)
@given(position=st.integers(0, 3000))
def test_the_stream_from_a_position_is_the_stream_from_0_after_as_many_rows(sources, position):
    sequence = sequence_of(sources)
    rows = stream(sequence, position, 4, (0, 1, 2, 3))
    for first in (position, position + 4):
        found = next(rows)
        for name, x in found.items():
            np.testing.assert_array_equal(x, [sequence[first + i][name] for i in range(4)], err_msg=name)


def test_a_stream_reads_only_a_few_batches_ahead(sources):
    read = []

    class Watched(RowSequence):
        def __getitem__(self, index: int):
            read.append(index)
            return super().__getitem__(index)

    rows = stream(Watched(sources, {"web": 3.0, "code": 1.0}, 0), 0, 16, tuple(range(16)))
    next(rows)
    time.sleep(0.3)  # what the threads would read by themselves
    assert max(read) < 16 * 10


def test_a_pair_has_its_chosen_answer_in_an_odd_segment_and_its_rejected_one_in_the_next(folder):
    rows = PackedRows(folder / "pairs", seq_len=16, pairs_per_row=3)
    seen = []
    for index in range(len(rows)):
        row, origins = rows[index], rows.origins("pairs", index)
        assert row["pair_weight_P"].tolist() == [float(p < len(origins)) for p in range(3)]
        for p, origin in enumerate(origins):
            seen.append(int(origin.document))
            for segment, side in ((2 * p + 1, 0), (2 * p + 2, 1)):
                here = row["segments_L"] == segment
                tokens = PAIRS[int(origin.document)][side]
                assert row["tokens_L"][here].tolist() == tokens[:-1] and row["targets_L"][here].tolist() == tokens[1:]
                assert row["positions_L"][here].tolist() == list(range(len(tokens) - 1)) and row["weight_L"][here].all()
    assert sorted(seen) == [0, 1, 2, 3, 4, 5, 6]  # pair 7 is longer than a row


def test_pair_rows_have_the_fields_of_a_preference_batch(folder):
    data = PackedPairs(folder=".", weights={"pairs": 1.0}, seq_len=16, batch_size=4, pairs_per_row=3)
    rows = data.sources(folder)["pairs"]
    own = {name: shape[1:] for name, shape in data.fields().items() if not name.startswith("reference")}
    assert list(data.fields()) == list(PreferenceBatch._fields)
    assert {name: rows[0][name.replace("_B", "_")].shape for name in own} == own
    assert set(rows[0]) == {name.replace("_B", "_") for name in own}


def test_columns_are_further_fields_by_row(folder):
    rows = PackedRows(folder / "pairs", seq_len=16, pairs_per_row=3)
    rows.columns["reference_chosen_P"] = np.arange(len(rows) * 3.0).reshape(-1, 3)
    assert rows[1]["reference_chosen_P"].tolist() == [3.0, 4.0, 5.0]


def test_data_that_no_row_can_hold_is_refused_with_a_remedy(tmp_path):
    pairs = write_pairs(tmp_path / "pairs", [(list(range(1, 20)), [1, 2], 1)])
    with pytest.raises(ValueError, match="pairs holds no document that fits seq_len=16; raise seq_len or prepare more data"):
        PackedRows(pairs, seq_len=16, pairs_per_row=2)
    with pytest.raises(ValueError, match="holds no document that fits seq_len=16"):
        PackedRows(write_documents(tmp_path / "web", [[1], [2]]), seq_len=16)


@pytest.mark.parametrize(
    "change", [{"weights": {"web": 0.0}}, {"weights": {"web": -1.0}}, {"seq_len": 0}, {"batch_size": 2.5}, {"seed": 1}]
)
def test_settings_without_meaning_are_refused(change):
    with pytest.raises(ValidationError):
        PackedShards(**{"folder": ".", "weights": {"web": 1.0}, "seq_len": 8, "batch_size": 2, **change})
