"""Laws of damaged shards: never read as if nothing were, named by file, record and document, and padding
where that is asked for.
"""

import collections
import multiprocessing
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.documents.document import content_id
from data_pipeline.loader import PackedPairs, PackedShards
from data_pipeline.rows.bad_records import bad_records
from data_pipeline.rows.pack import ConcatenateAndSplit
from data_pipeline.rows.packed import PackedRows
from data_pipeline.rows.sequence import RowSequence
from data_pipeline.rows.stream import stream
from data_pipeline.shards.record import Record, Sequence
from data_pipeline.shards.shards import BadRecord, Shards, write_shards

L = 12
N, PER_SHARD = 40, 5
LOST = "00002.arrayrecord"  # records 10 to 14


def records(n_sequences: int = 1, n: int = N) -> list[Record]:
    rng = np.random.default_rng(n_sequences)

    def sequence(most: int) -> Sequence:
        tokens = rng.integers(1, 50, int(rng.integers(2, most)), np.int32)
        return Sequence(tokens, np.ones(len(tokens), np.uint8))

    return [
        Record(
            content_id(str(i)),
            tuple(sequence(30 if n_sequences == 1 else 5) for _ in range(n_sequences)),
        )
        for i in range(n)
    ]


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """Whole shards of documents and of pairs."""
    root = tmp_path_factory.mktemp("sound")
    for name, n_sequences in (("web", 1), ("pairs", 2)):
        write_shards(
            root / name,
            records(n_sequences),
            source=name,
            n_bytes=1,
            shard_records=PER_SHARD,
            lineage={},
        )
    return root


@pytest.fixture
def root(sound, tmp_path) -> Path:
    """A copy to damage."""
    return shutil.copytree(sound, tmp_path / "damaged")


def opened(root: Path, name: str, *, skip: bool) -> PackedRows:
    """The rows of a source, as a data component opens them."""
    fields = {
        "folder": ".",
        "weights": {name: 1.0},
        "seq_len": L,
        "batch_size": 2,
        "skip_bad_records": skip,
    }
    data = (
        PackedShards(**fields, packing=ConcatenateAndSplit())
        if name == "web"
        else PackedPairs(**fields, pairs_per_row=3)
    )
    return data.sources(root)[name]


def all_rows(rows: PackedRows) -> list[dict[str, np.ndarray]]:
    return [rows[i] for i in range(len(rows))]


def assert_padding_in_place_of(
    bad: set[str], rows: PackedRows, sound_rows: PackedRows, name: str
) -> None:
    """Every row is what it was, but for the segments of `bad` documents, which are 0 in all fields."""
    assert len(rows) == len(sound_rows) and rows.fingerprint == sound_rows.fingerprint
    for i, (row, whole) in enumerate(zip(all_rows(rows), all_rows(sound_rows), strict=True)):
        lost = [
            k
            for k, origin in enumerate(sound_rows.origins(name, sound_rows.place(i)), 1)
            if origin.document in bad
        ]
        gone = np.isin(whole["segments_L"], lost)
        for field, x in whole.items():
            if field == "pair_weight_P":
                assert row[field].tolist() == [
                    w * (2 * slot + 1 not in lost) for slot, w in enumerate(x.tolist())
                ]
            else:
                np.testing.assert_array_equal(
                    row[field], np.where(gone, 0, x).astype(x.dtype), err_msg=f"{i} {field}"
                )
        assert [(o.document, o.start, o.stop) for o in rows.origins(name, rows.place(i))] == [
            (o.document, o.start, o.stop) for o in sound_rows.origins(name, sound_rows.place(i))
        ]


def flip(path: Path, at: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 1 << bit
    path.write_bytes(data)


def damage_record(path: Path, record: int) -> None:
    """Flip a bit where the record lies: its tokens stand there as they are."""
    n = 2 * len(records()[record].sequences[0].tokens)
    tokens = records()[record].sequences[0].tokens.astype("<u2").tobytes()
    assert len(tokens) == n and path.read_bytes().count(tokens) == 1
    flip(path, path.read_bytes().index(tokens) + n // 2)


@pytest.mark.parametrize("name", ["web", "pairs"])
def test_a_missing_shard_is_named_with_what_was_in_it_and_the_remedy(name, root):
    lost = [record.id for record in records(1 if name == "web" else 2)[10:15]]
    (root / name / LOST).unlink()
    what = rf"\(5 records, documents {lost[0]} to {lost[-1]}\)"
    with pytest.raises(
        ValueError,
        match=rf"{name}/{LOST} has no bytes, its manifest says \d+ {what}; delete .* or leave",
    ):
        opened(root, name, skip=False)


@pytest.mark.parametrize("name", ["web", "pairs"])
def test_the_documents_of_a_missing_shard_become_padding_and_no_other_row_changes(
    name, root, sound
):
    lost = {record.id for record in records(1 if name == "web" else 2)[10:15]}
    (root / name / LOST).unlink()
    rows = opened(root, name, skip=True)
    assert_padding_in_place_of(lost, rows, opened(sound, name, skip=False), name)
    assert sorted(rows.bad_records) == [10, 11, 12, 13, 14] and all(
        LOST in said for said in rows.bad_records.values()
    )


def test_a_flipped_bit_is_told_by_file_record_and_document_or_left_out(root, sound):
    damage_record(root / "web" / "00004.arrayrecord", 22)
    rows, skipping, lost = (
        opened(root, "web", skip=False),
        opened(root, "web", skip=True),
        records()[22].id,
    )
    with pytest.raises(
        BadRecord,
        match=rf"00004.arrayrecord: record 2 \(document {lost}\) .*; delete .* data.skip_bad_records=true",
    ):
        all_rows(rows)
    assert_padding_in_place_of(
        {lost}, pickle.loads(pickle.dumps(skipping)), opened(sound, "web", skip=False), "web"
    )
    all_rows(skipping)
    assert list(skipping.bad_records) == [22] and f"document {lost}" in skipping.bad_records[22]


def test_parts_of_a_row_agree_on_which_pairs_are_damaged(root):
    (root / "pairs" / LOST).unlink()
    rows = opened(root, "pairs", skip=True)
    for i in range(len(rows)):
        parts = [
            rows.read([rows.place(i)], slice(start, start + 4))[0]["pair_weight_P"].tolist()
            for start in range(0, L, 4)
        ]
        assert parts == [rows[i]["pair_weight_P"].tolist()] * 3


def test_more_damage_than_an_accident_is_an_error(root):
    for file in ("00001", "00002", "00006"):
        (root / "web" / f"{file}.arrayrecord").unlink()
    with pytest.raises(
        ValueError,
        match=r"web: 1\d of 40 records are damaged, more than 0.1% .* or 10; delete .*the first: .*arrayrecord",
    ):
        all_rows(opened(root, "web", skip=True))


def test_what_other_processes_have_met_counts_too(root):
    rows = opened(root, "web", skip=True)
    rows.note_bad({3: "a.arrayrecord: record 3"})
    assert rows.bad_records == {3: "a.arrayrecord: record 3"}
    with pytest.raises(ValueError, match="11 of 40 records are damaged"):
        rows.note_bad(dict.fromkeys(range(11), "a.arrayrecord"))


@pytest.mark.parametrize("processes", [0, 2])
def test_what_is_read_ahead_is_counted_where_it_is_used(processes, root):
    (root / "web" / LOST).unlink()
    rows, others = (
        RowSequence({"web": opened(root, "web", skip=True)}, {"web": 1.0}, 0) for _ in range(2)
    )
    batches = stream(rows, 0, 8, (0, 3, 6), processes=processes)
    for first in range(0, 8 * 4, 8):
        batch = next(batches)
        assert all(
            x.tolist() == [others[first + i][name].tolist() for i in (0, 3, 6)]
            for name, x in batch.items()
        )
    found = bad_records(rows.sources)
    assert (
        found
        and set(found) <= {f"web/{n}" for n in range(10, 15)}
        and all(LOST in said for said in found.values())
    )


def test_nothing_is_counted_where_nothing_is_damaged(sound):
    rows = opened(sound, "web", skip=True)
    all_rows(rows)
    assert rows.bad_records == {}


def cut(path: Path, rng: np.random.Generator) -> None:
    path.write_bytes(path.read_bytes()[: int(rng.integers(path.stat().st_size))])


def grow(path: Path, rng: np.random.Generator) -> None:
    path.write_bytes(path.read_bytes() + rng.bytes(int(rng.integers(1, 99))))


def scramble(path: Path, rng: np.random.Generator) -> None:
    data = bytearray(path.read_bytes())
    at = int(rng.integers(min(len(data), 2000)))  # where the records are: much of a file is room
    data[at : at + 50] = rng.bytes(len(data[at : at + 50]))
    path.write_bytes(data)


def flip_one(path: Path, rng: np.random.Generator) -> None:
    flip(path, int(rng.integers(min(path.stat().st_size, 2000))), int(rng.integers(8)))


def swap(path: Path, rng: np.random.Generator) -> None:
    """A sound file, which is another one's."""
    others = sorted(other for other in path.parent.glob(f"*{path.suffix}") if other != path)
    shutil.copy(others[int(rng.integers(len(others)))], path) if others else path.unlink()


def remove(path: Path, rng: np.random.Generator) -> None:
    path.unlink()


DAMAGES = (flip_one, scramble, cut, grow, swap, remove)


def outcome(folder: str, sound: str, skip: bool) -> str:
    """What reading all of a damaged source comes to; raises AssertionError where wrong rows are read
    silently.
    """
    root, whole = Path(folder), opened(Path(sound), "web", skip=False)
    try:
        rows = opened(root, "web", skip=skip)
        read = all_rows(rows)
    except (ValueError, FileNotFoundError) as error:
        return "told" if str(root / "web") in str(error) else f"unclear: {error}"
    except Exception as error:
        return f"unclear: {error!r}"
    if all(
        np.array_equal(row[field], x)
        for row, other in zip(read, all_rows(whole), strict=True)
        for field, x in other.items()
    ):
        return "harmless"
    assert_padding_in_place_of(
        {records()[i].id for i in rows.bad_records}, rows, whole, "web"
    )  # none, where none was met
    return "left out"


def outcomes(
    sound: Path, root: Path, damages: list[tuple[str, Callable]], *, seed: int
) -> collections.Counter:
    """Counts by (file, outcome) over damages, read in a process of its own that may not hang."""
    found, rng = collections.Counter(), np.random.default_rng(seed)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for number, (file, damage) in enumerate(damages):
            folder = shutil.copytree(sound, root / str(number))
            shutil.rmtree(
                folder / "web" / "plans", ignore_errors=number % 2 == 0
            )  # plans are made before the damage, or after it
            damage(folder / "web" / file, rng)
            for skip in (False, True):
                found[
                    Path(file).suffix,
                    pool.apply_async(outcome, (str(folder), str(sound), skip)).get(timeout=120),
                ] += 1
            shutil.rmtree(folder)
    return found


def test_damage_of_every_kind_is_harmless_told_or_left_out(sound, root, tmp_path):
    opened(sound, "web", skip=False)  # its plan lies beside it
    found = outcomes(sound, tmp_path / "tried", [(LOST, damage) for damage in DAMAGES], seed=0)
    assert {how for _, how in found} <= {"harmless", "told", "left out"}
    assert found[".arrayrecord", "told"] >= 4 and found[".arrayrecord", "left out"] >= 4


@pytest.mark.slow
def test_no_damage_of_seventy_is_silent_unclear_or_hangs(sound, tmp_path):
    opened(sound, "web", skip=False)
    files = [*(f"{i:05}.arrayrecord" for i in range(8)), "index.npy", "manifest.json"]
    found = outcomes(
        sound,
        tmp_path / "tried",
        [(file, damage) for file in files for damage in DAMAGES for _ in range(2)],
        seed=1,
    )
    print({f"{suffix} {how}": n for (suffix, how), n in sorted(found.items())})
    assert {how for _, how in found} <= {"harmless", "told", "left out"} and found.total() == 240


def test_a_record_that_cannot_be_read_is_an_error_value(root):
    (root / "web" / LOST).unlink()
    found = Shards(root / "web", whole=False).read([9, 10, 15])
    assert [isinstance(record, BadRecord) for record in found] == [False, True, False]
    with pytest.raises(BadRecord, match="record 0"):
        Shards(root / "web", whole=False).__getitems__([9, 10])
