"""Laws of the row sequence: a row is a function of contents, weights, seed and its number, and its future
does not touch its past.
"""

import itertools
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.rows.mix import Schedule, Stage
from data_pipeline.rows.packed import PackedRows
from data_pipeline.rows.provenance import steps_of
from data_pipeline.rows.sequence import RowSequence
from data_pipeline.shards.record import Record, Sequence
from data_pipeline.shards.shards import append_shards
from tests.examples import random_documents, write_documents

L = 9
RNG = np.random.default_rng(0)
WEB = random_documents(
    RNG, [1, 2, L, L + 1, L + 2, 2 * L + 1, 2 * L + 2, *RNG.integers(2, 40, 30).tolist()]
)
CODE = random_documents(RNG, RNG.integers(2, 40, 11).tolist())
BOOKS = random_documents(RNG, RNG.integers(2, 40, 7).tolist())
TEXTS = {"web": WEB, "code": CODE, "books": BOOKS}
WEIGHTS = {"web": 3.0, "code": 1.0}
LATER = Stage(from_tokens=150 * L, weights={"books": 1.0, "web": 1.0})


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    for name, documents in TEXTS.items():
        write_documents(root / name, documents)
    return root


@pytest.fixture(scope="module")
def sources(folder) -> dict[str, PackedRows]:
    return {name: PackedRows(folder / name, seq_len=L) for name in TEXTS}


def two(sources: dict[str, PackedRows]) -> dict[str, PackedRows]:
    return {name: sources[name] for name in WEIGHTS}


def places(sequence: RowSequence, n: int = 300) -> list:
    return sequence.places(range(n))


def append(folder: Path, documents: list[list[int]], first: int) -> None:
    records = [
        Record(str(first + i), (Sequence(np.array(x, np.int32), np.ones(len(x), np.uint8)),))
        for i, x in enumerate(documents)
    ]
    append_shards(folder, records, source=folder.name, n_bytes=1, shard_records=5, lineage={})


def test_a_row_is_a_row_of_the_source_that_the_mixture_names(sources):
    sequence, seen = RowSequence(sources, WEIGHTS, 0), Counter()
    for i, (name, place) in enumerate(places(sequence, 200)):
        row, (plain,) = sequence[i], sources[name].read([place], slice(0, L))
        assert (row["source_L"] == list(sources).index(name)).all() and sequence.place(i) == (
            name,
            place,
        )
        assert all(
            np.array_equal(row[field], plain[field]) for field in plain if field != "source_L"
        )
        seen[name] += 1
    assert 148 <= seen["web"] <= 152 and not seen["books"]


def test_each_epoch_of_a_source_has_every_row_once_in_another_order(sources):
    orders = {name: [] for name in WEIGHTS}
    for name, place in places(RowSequence(two(sources), WEIGHTS, 0), 1000):
        orders[name].append(place)
    for name, seen in orders.items():
        n = len(sources[name])
        epochs = [seen[e * n : (e + 1) * n] for e in range(4)]
        assert all(sorted(place.row for place in epoch) == list(range(n)) for epoch in epochs)
        assert all({place.epoch for place in epoch} == {e} for e, epoch in enumerate(epochs))
        assert len({tuple(place.row for place in epoch) for epoch in epochs}) == 4


def test_the_sequence_is_a_function_of_contents_weights_and_seed_alone(sources, folder):
    expected = places(RowSequence(two(sources), WEIGHTS, 0))
    reopened = RowSequence(
        {name: PackedRows(folder / name, seq_len=L) for name in WEIGHTS}, WEIGHTS, 0
    )
    assert [reopened.place(i) for i in reversed(range(300))] == expected[::-1]
    assert places(pickle.loads(pickle.dumps(reopened))) == expected
    assert places(RowSequence(two(sources), WEIGHTS, 1)) != expected


def test_the_fingerprint_changes_with_contents_lengths_weights_and_seed_and_with_nothing_else(
    sources, folder, tmp_path
):
    given = two(sources)
    copied = {
        name: PackedRows(write_documents(tmp_path / name, TEXTS[name]), seq_len=L)
        for name in WEIGHTS
    }
    same = [
        RowSequence(given, WEIGHTS, 0),
        RowSequence(copied, WEIGHTS, 0),
        RowSequence(given, {"web": 0.75, "code": 0.25}, 0),
    ]
    assert len({sequence.fingerprint for sequence in same}) == 1
    others = [
        RowSequence(given, WEIGHTS, 1),
        RowSequence(
            {
                **copied,
                "code": PackedRows(
                    write_documents(tmp_path / "other", [*CODE[:-1], CODE[0]]), seq_len=L
                ),
            },
            WEIGHTS,
            0,
        ),
        RowSequence(
            {name: PackedRows(folder / name, seq_len=L - 1) for name in WEIGHTS}, WEIGHTS, 0
        ),
        RowSequence(given, {"web": 1.0, "code": 1.0}, 0),
        RowSequence(dict(reversed(given.items())), WEIGHTS, 0),
        RowSequence(sources, WEIGHTS, 0, Schedule(stages=(LATER,))),
        RowSequence(given, WEIGHTS, 0, Schedule(max_epochs={"code": 2.0})),
    ]
    assert len({sequence.fingerprint for sequence in (*same, *others)}) == 1 + len(others)


def test_origins_name_the_documents_of_any_row_past_or_future(sources):
    sequence = RowSequence(sources, WEIGHTS, 0, Schedule(stages=(LATER,)))
    for i in (0, 3, 149, 150, 10_007):
        found = [
            TEXTS[o.source][int(o.document)][o.start : o.stop - 1] for o in sequence.origins(i)
        ]
        assert sum(found, []) == sequence[i]["tokens_L"][sequence[i]["segments_L"] > 0].tolist()


@pytest.mark.parametrize("stop", [1, 149, 260, 1000])
def test_the_rows_of_a_document_are_all_rows_whose_origins_name_it(stop, sources):
    schedule = Schedule(stages=(LATER,), max_epochs={"code": 1.5})
    sequence, expected = RowSequence(sources, WEIGHTS, 0, schedule), {}
    for i in range(stop):
        for origin in sequence.origins(i):
            expected.setdefault((origin.source, origin.document), set()).add(i)
    for name, documents in TEXTS.items():
        for i in range(len(documents)):
            assert sequence.rows_of(name, str(i), stop) == sorted(expected.get((name, str(i)), ()))
    assert sequence.rows_of("web", "nowhere", stop) == []


def test_steps_of_rows_leave_out_what_was_skipped():
    assert steps_of([0, 3, 4, 17, 20], ends=[4, 8, 12, 16, 20]) == [1, 2, 5]
    assert steps_of([3, 4, 11, 12, 25], ends=[4, 16, 24, 28], skipped=[(4, 12), (16, 20)]) == [
        1,
        2,
        4,
    ]
    assert steps_of([0, 1, 2, 9], ends=[1, 3, 10]) == [1, 2, 3], "batch sizes may differ"


def test_a_later_stage_moves_no_earlier_row_and_no_sources_place_in_its_epoch(sources):
    plain, staged = (
        RowSequence(two(sources), WEIGHTS, 0),
        RowSequence(sources, WEIGHTS, 0, Schedule(stages=(LATER,))),
    )
    assert places(plain, 150) == places(staged, 150)
    for i in (0, 149):
        assert all(np.array_equal(plain[i][name], x) for name, x in staged[i].items())
    after = [place for name, place in staged.places(range(150, 400)) if name == "web"]
    on = [place for name, place in plain.places(range(600)) if name == "web"][
        sum(name == "web" for name, _ in places(plain, 150)) :
    ]
    assert after == on[: len(after)], "web goes on in its epoch where it stood"
    books = [place.row for name, place in staged.places(range(150, 400)) if name == "books"][
        : len(sources["books"])
    ]
    assert sorted(books) == list(range(len(sources["books"])))
    assert plain.past(150) == staged.past(150) and plain.past(151) != staged.past(151)


def test_an_appended_segment_takes_part_from_its_stage_on_and_moves_no_earlier_row(tmp_path):
    write_documents(tmp_path / "web", WEB[:20])
    write_documents(tmp_path / "code", CODE)

    def opened(schedule: Schedule) -> RowSequence:
        return RowSequence(
            {name: PackedRows(tmp_path / name, seq_len=L) for name in WEIGHTS}, WEIGHTS, 0, schedule
        )

    before = opened(Schedule())
    expected, cursors = places(before), before.mixture.cursors(150)
    append(tmp_path / "web", WEB[20:], 20)
    unstated = opened(Schedule())
    assert unstated.past(150) != before.past(150), (
        "a segment that nobody stated a stage for would move what was"
    )
    stage = Stage(from_tokens=150 * L, weights=WEIGHTS)
    after = opened(Schedule(segments={"web": 1}, stages=(stage,)))
    assert places(after, 150) == expected[:150] and after.past(150) == before.past(150)
    assert after.mixture.cursors(150).tolist() == [cursors[0], 0, cursors[1]]
    code = [
        [place for name, place in found if name == "code"] for found in (expected, places(after))
    ]
    assert code[0][: len(code[1])] == code[1][: len(code[0])]
    taken = Counter(
        place.segment for name, place in after.places(range(150, 1150)) if name == "web"
    )
    sizes = [len(rows.plan(0)) for rows in after.sources["web"].segments]
    assert abs(taken[1] - sum(taken.values()) * sizes[1] / sum(sizes)) < 4, (
        "segments end their epochs together"
    )
    with pytest.raises(
        ValueError, match=r"segments.web=3, but .*web has 2; append them or lower it"
    ):
        opened(Schedule(segments={"web": 3}))


def test_a_source_is_read_as_often_as_max_epochs_says_and_the_others_go_on(sources):
    sequence = RowSequence(two(sources), WEIGHTS, 0, Schedule(max_epochs={"code": 2.0, "web": 2.5}))
    n = {name: len(rows) for name, rows in sources.items()}
    assert sequence.n_rows == 2 * n["code"] + int(2.5 * n["web"])
    seen = Counter((name, place.row) for name, place in places(sequence, sequence.n_rows))
    assert {count for (name, _), count in seen.items() if name == "code"} == {2}
    assert {count for (name, _), count in seen.items() if name == "web"} == {2, 3}
    with pytest.raises(IndexError, match="all sources have reached their max_epochs"):
        sequence[sequence.n_rows]
    endless = RowSequence(two(sources), WEIGHTS, 0, Schedule(max_epochs={"code": 2.0}))
    end = max(i for i, (name, _) in enumerate(places(endless, 1000)) if name == "code")
    assert (
        places(endless, end + 1) == places(RowSequence(two(sources), WEIGHTS, 0), end + 1)
        and endless.n_rows is None
    )


def test_shares_by_size_are_those_of_tokens_to_the_power(sources):
    n = np.array([sources[name].shards.manifest["tokens"] for name in WEIGHTS])
    for power in (0.0, 0.3, 1.0):
        (leg,) = RowSequence(
            two(sources), {"web": 1.0, "code": 1.0}, 0, Schedule(size_power=power)
        ).mixture.legs
        np.testing.assert_allclose(
            leg.counts / leg.counts.sum(), n**power / (n**power).sum(), atol=1e-4
        )


def test_stages_that_do_not_follow_one_another_are_refused(sources):
    stages = tuple(LATER.model_copy(update={"from_tokens": n}) for n in (3, 4))
    with pytest.raises(
        ValueError, match=r"from_tokens=4 is no row later than the stage before; raise it"
    ):
        RowSequence(sources, WEIGHTS, 0, Schedule(stages=stages))


@settings(max_examples=20)
@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=8))
def test_rows_do_not_depend_on_how_many_are_read_together(sources, sizes):
    sequence = RowSequence(sources, WEIGHTS, 0, Schedule(stages=(LATER,), max_epochs={"code": 3.0}))
    ends = itertools.pairwise(itertools.accumulate(sizes, initial=100))
    found = [row for first, stop in ends for row in sequence.read(range(first, stop))]
    for i in (0, len(found) // 2, len(found) - 1):
        assert all(np.array_equal(found[i][name], x) for name, x in sequence[100 + i].items())
