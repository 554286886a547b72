"""Laws of token shards: read back what was written, in any order, and nothing half-written looks complete."""

import itertools
import json
import multiprocessing
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.documents.document import content_id
from data_pipeline.files import OutputError
from data_pipeline.shards.record import Record, Sequence, pack, unpack
from data_pipeline.shards.shards import (
    Shards,
    append_shards,
    finish_shards,
    next_segment,
    write_shard,
    write_shards,
)


def make(n: int, *, n_sequences: int = 1, vocab_size: int = 4096, seed: int = 0) -> list[Record]:
    rng = np.random.default_rng(seed)

    def sequence() -> Sequence:
        n_tokens = int(rng.integers(1, 40))
        return Sequence(
            rng.integers(0, vocab_size, n_tokens, np.int32), rng.integers(0, 2, n_tokens, np.uint8)
        )

    return [Record(f"{i:04x}", tuple(sequence() for _ in range(n_sequences))) for i in range(n)]


def write(folder: Path, records: list[Record], *, shard_records: int = 7) -> Shards:
    write_shards(
        folder,
        iter(records),
        source="code",
        n_bytes=1234,
        shard_records=shard_records,
        lineage={"tokenizer": "abc"},
    )
    return Shards(folder)


def assert_equal(read: list[Record], expected: list[Record]) -> None:
    assert [record.id for record in read] == [record.id for record in expected]
    for one, other in zip(read, expected, strict=True):
        assert len(one.sequences) == len(other.sequences)
        for a, b in zip(one.sequences, other.sequences, strict=True):
            assert (a.tokens.dtype, a.weight.dtype) == (np.int32, np.uint8)
            assert a.tokens.tolist() == b.tokens.tolist() and a.weight.tolist() == b.weight.tolist()


@pytest.mark.parametrize("n_sequences", [1, 2])
@pytest.mark.parametrize("vocab_size", [300, 1 << 16, 200_000])
def test_records_come_back_as_written_in_any_order(n_sequences, vocab_size, tmp_path):
    records = make(30, n_sequences=n_sequences, vocab_size=vocab_size)
    shards = write(tmp_path / "code", records)
    shards.verify()
    order = [29, 0, 7, 6, 14, 7, 13, 28, np.int64(3)]
    assert len(shards) == 30 and len(shards.manifest["shards"]) == 5
    assert_equal(shards.__getitems__(range(30)), records)
    assert_equal(shards.__getitems__(order), [records[i] for i in order])
    assert_equal([shards[i] for i in order], [records[i] for i in order])
    assert shards.__getitems__([]) == []


@settings(deadline=None)
@given(
    tokens=st.lists(st.integers(0, 2**31 - 1) | st.integers(0, 70_000), min_size=1, max_size=9),
    bits=st.integers(0, 2**9 - 1),
)
def test_packing_a_record_loses_nothing(tokens, bits):
    weight = np.array([bits >> i & 1 for i in range(len(tokens))], np.uint8)
    record = Record("x", (Sequence(np.array(tokens, np.int32), weight),))
    assert_equal([unpack(pack(record))], [record])


def test_small_vocabularies_take_two_bytes_a_token():
    ones = np.ones(1000, np.uint8)
    assert len(pack(Record("x", (Sequence(np.full(1000, 4095, np.int32), ones),)))) < 2020


def test_the_index_and_the_manifest_say_what_the_records_are(tmp_path):
    records = make(30, n_sequences=2)
    shards = write(tmp_path / "pairs", records)
    assert shards.lengths.dtype == np.int32
    assert shards.lengths.tolist() == [
        [len(sequence.tokens) for sequence in record.sequences] for record in records
    ]
    assert shards.manifest["documents"] == 30 and shards.manifest["tokens"] == shards.lengths.sum()
    assert (shards.manifest["source"], shards.manifest["bytes"], shards.manifest["lineage"]) == (
        "code",
        1234,
        {"tokenizer": "abc"},
    )
    assert "array_record" in shards.manifest["tools"]


def test_the_same_records_give_the_same_files(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / name, make(30))
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(files) == 7
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)


def test_the_content_hash_depends_on_records_and_their_order_alone(tmp_path):
    records = make(30)
    first = write(tmp_path / "a", records).manifest["content_hash"]
    assert write(tmp_path / "b" / "c", records, shard_records=100).manifest["content_hash"] == first
    assert write(tmp_path / "d", records[::-1]).manifest["content_hash"] != first
    assert write(tmp_path / "e", records[:-1]).manifest["content_hash"] != first


def test_no_records_make_an_empty_folder_of_shards(tmp_path):
    shards = write(tmp_path / "chat", [])
    shards.verify()
    assert len(shards) == 0 and shards.manifest["tokens"] == 0 and shards.__getitems__([]) == []


def _ids(shards: Shards) -> list[str]:
    return [record.id for record in shards.__getitems__(range(len(shards)))]


def _fork_reads_the_same(shards: Shards) -> bool:
    expected = _ids(shards)  # files are open from here on
    child = os.fork()
    if not child:
        os._exit(0 if _ids(shards) == expected else 1)
    return os.waitpid(child, 0)[1] == 0


def test_shards_are_shared_by_threads_and_survive_pickling_and_fork(tmp_path):
    shards = write(tmp_path / "code", make(200))
    expected = _ids(shards)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda i: shards[i].id, list(range(200)) * 5)) == expected * 5
    assert _ids(pickle.loads(pickle.dumps(shards))) == expected
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_ids, (shards,)) == expected
        assert pool.apply(_fork_reads_the_same, (shards,))


@pytest.mark.parametrize("index", [-1, 30])
def test_an_index_outside_is_refused(index, tmp_path):
    with pytest.raises(IndexError, match="which has 30"):
        write(tmp_path / "code", make(30))[index]


def test_a_missing_folder_is_named_with_a_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere holds no token shards .* prepare the data first"):
        Shards(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("00001.arrayrecord", lambda data: data[:-1]),
        ("00001.arrayrecord", lambda data: data + b"x"),
        ("00001.arrayrecord", lambda data: None),
        ("index.npy", lambda data: data[:-4]),
        ("index.npy", lambda data: None),
        ("manifest.json", lambda data: data[:-9]),
    ],
)
def test_a_file_cut_short_or_missing_is_named_when_opening(file, damage, tmp_path):
    write(tmp_path / "code", make(30))
    path = tmp_path / "code" / file
    data = damage(path.read_bytes())
    path.unlink() if data is None else path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"code/{file} .*; delete the folder and prepare the data again"):
        Shards(tmp_path / "code")


def test_a_flipped_bit_is_found_by_verify_and_not_read(tmp_path):
    write(tmp_path / "code", make(30))
    path = tmp_path / "code" / "00000.arrayrecord"
    data = bytearray(path.read_bytes())
    first = json.loads((tmp_path / "code" / "manifest.json").read_text())["shards"][0]
    assert len(data) == first["size"]
    data[len(data) // 3 : 2 * len(data) // 3] = bytes(len(data) // 3 + 1)
    path.write_bytes(data[: first["size"]])
    shards = Shards(tmp_path / "code")
    for read in (shards.verify, lambda: shards.__getitems__(range(7))):
        with pytest.raises(
            ValueError,
            match=r"00000.arrayrecord: record 0 \(document \w{16}\) cannot be read .* prepare the data again",
        ):
            read()


def _edit(path: Path, number: int, change: Callable[[Record], Record]) -> None:
    """Write a shard file anew with one record changed, to a length that is the same."""
    records = [unpack(data) for data in ArrayRecordReader(str(path)).read_all()]
    records[number] = change(records[number])
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(pack(record))
    writer.close()


def _other_token(record: Record) -> Record:
    (tokens, weight), *_ = record.sequences
    return Record(
        record.id, (Sequence(np.concatenate([tokens[:-1], tokens[-1:] ^ 1]).astype(np.int32), weight),)
    )


@pytest.mark.parametrize(
    "change", [_other_token, lambda record: record._replace(id=f"{7:016x}")], ids=["token", "id"]
)
def test_a_shard_edited_by_hand_is_refused_by_file_record_and_document(change, tmp_path):
    records = [record._replace(id=content_id(record.id)) for record in make(30)]
    shards = write(tmp_path / "code", records)
    path = tmp_path / "code" / "00002.arrayrecord"
    _edit(path, 3, change)
    manifest = json.loads((tmp_path / "code" / "manifest.json").read_text())
    manifest["shards"][2]["size"] = path.stat().st_size  # the edit may pack better or worse
    (tmp_path / "code" / "manifest.json").write_text(json.dumps(manifest))
    shards = Shards(tmp_path / "code")
    assert_equal(shards.__getitems__([0, 16, 18]), [records[i] for i in (0, 16, 18)])
    for read in (lambda: shards[17], lambda: shards.__getitems__(range(30)), shards.verify):
        with pytest.raises(
            ValueError,
            match=rf"00002.arrayrecord: record 3 \(document {records[17].id}\) is not what was written; delete",
        ):
            read()


def test_verify_names_a_file_that_differs_where_no_record_does(tmp_path):
    write(tmp_path / "code", make(30))
    index = np.load(tmp_path / "code" / "index.npy")
    index["lengths"][5] += 1
    np.save(tmp_path / "code" / "index.npy", index)
    with pytest.raises(
        ValueError, match=r"index.npy is damaged \(its SHA-256 is not the manifest's\); delete"
    ):
        Shards(tmp_path / "code").verify()


def test_an_existing_folder_is_not_touched(tmp_path):
    write(tmp_path / "code", make(30))
    before = (tmp_path / "code" / "manifest.json").read_bytes()
    with pytest.raises(OutputError, match="exists already; delete it or choose another"):
        write(tmp_path / "code", make(3))
    assert (tmp_path / "code" / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([*make(3), *make(3, n_sequences=2)], "different|differ"),
        ([Record("x", (Sequence(np.zeros(0, np.int32), np.zeros(0, np.uint8)),))], "0 tokens with 0 weights"),
        ([Record("x", (Sequence(np.zeros(2, np.int32), np.zeros(1, np.uint8)),))], "2 tokens with 1 weights"),
    ],
)
def test_malformed_records_are_refused_and_leave_nothing(records, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "code", records)
    assert not list(tmp_path.iterdir())


def test_an_output_that_is_no_folder_is_named_with_a_remedy(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        OutputError, match=r"cannot write .*file/code: Not a directory; free space there or choose another"
    ):
        write(tmp_path / "file" / "code", make(3))


def _write_to_a_full_disk(folder: Path) -> str:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # a write beyond it fails as on a full disk
    try:
        write(folder, make(3000), shard_records=10_000)
    except OutputError as error:
        return str(error)
    return "nothing was raised"


def test_a_full_disk_is_one_clear_error_and_leaves_nothing(tmp_path):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        message = pool.apply(_write_to_a_full_disk, (tmp_path / "code",))
    assert message.startswith("cannot write") and message.endswith(
        "free space there or choose another output folder"
    )
    assert not list(tmp_path.iterdir())


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.data_pipeline.test_shards import make, write
def stop_after(records, n):
    for i, record in enumerate(records):
        if i == n:
            os.kill(os.getpid(), signal.SIGKILL)
        yield record
write(Path(sys.argv[1]), stop_after(make(30), int(sys.argv[2])))
"""


@pytest.mark.parametrize("n_written", [0, 10, 29])
def test_a_kill_while_writing_leaves_nothing_that_looks_complete_and_the_next_write_succeeds(
    n_written, tmp_path
):
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path / "code", str(n_written)],
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    with pytest.raises(FileNotFoundError):
        Shards(tmp_path / "code")
    assert_equal(write(tmp_path / "code", make(30)).__getitems__(range(30)), make(30))
    assert [path.name for path in tmp_path.iterdir()] == ["code"]


def _write_file(folder: Path, number: int) -> dict:
    return write_shard(folder / f"{number:05}.arrayrecord", iter(make(30)[7 * number : 7 * number + 7]))


def test_files_written_by_many_processes_are_the_folder_that_one_writes(tmp_path):
    write(tmp_path / "one", make(30))
    (tmp_path / "many").mkdir()
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        described = pool.starmap(_write_file, [(tmp_path / "many", number) for number in (4, 2, 0, 1, 3)])
    described = json.loads(json.dumps(sorted(described, key=lambda shard: shard["file"])))
    with pytest.raises(FileNotFoundError):
        Shards(tmp_path / "many")
    for _ in range(2):  # as after a kill between the manifest and the end
        finish_shards(tmp_path / "many", described, source="code", n_bytes=1234, lineage={"tokenizer": "abc"})
        files = sorted(path.name for path in (tmp_path / "many").iterdir())
        assert files == sorted(path.name for path in (tmp_path / "one").iterdir())
        assert all(
            (tmp_path / "one" / file).read_bytes() == (tmp_path / "many" / file).read_bytes()
            for file in files
        )
        _write_again = [_write_file(tmp_path / "many", number) for number in range(5)]
        assert _write_again == described


def test_a_file_without_records_does_no_harm(tmp_path):
    described = [
        write_shard(tmp_path / f"{i:05}.arrayrecord", part)
        for i, part in enumerate((make(3), [], make(9)[3:]))
    ]
    finish_shards(tmp_path, described, source="code", n_bytes=1, lineage={})
    shards = Shards(tmp_path)
    shards.verify()
    assert_equal(shards.__getitems__([8, 2, 3]), [make(9)[i] for i in (8, 2, 3)])


def append(folder: Path, records: list[Record]) -> Path:
    return append_shards(folder, records, source="code", n_bytes=100, shard_records=7, lineage={})


def test_appended_segments_are_read_behind_what_was_there_which_is_not_touched(tmp_path):
    records = make(50)
    write(tmp_path / "code", records[:30])
    before = {path: path.read_bytes() for path in (tmp_path / "code").iterdir()}
    append(tmp_path / "code", records[30:41])
    assert next_segment(tmp_path / "code")[0] == append(tmp_path / "code", records[41:])
    assert all(path.read_bytes() == data for path, data in before.items())
    shards = Shards(tmp_path / "code")
    shards.verify()
    assert [segment.first for segment in shards.segments] == [0, 30, 41] and len(shards) == 50
    order = [49, 0, 40, 41, 29, 30, 7]
    assert_equal(shards.__getitems__(order), [records[i] for i in order])
    assert shards.lengths.tolist() == [[len(record.sequences[0].tokens)] for record in records]
    assert (shards.manifest["documents"], shards.manifest["bytes"]) == (50, 1434) and shards.manifest[
        "tokens"
    ] == shards.lengths.sum()
    assert_equal(pickle.loads(pickle.dumps(shards)).__getitems__(order), [records[i] for i in order])
    assert shards.find("0028") == [40] and shards.find("nowhere") == []


def test_another_content_or_order_of_segments_is_another_content_hash(tmp_path):
    hashes = set()
    for name, parts in (("a", [30]), ("b", [30, 40]), ("c", [30, 35, 40]), ("d", [40])):
        write(tmp_path / name, make(40)[: parts[0]])
        for first, stop in itertools.pairwise(parts):
            append(tmp_path / name, make(40)[first:stop])
        hashes.add(Shards(tmp_path / name).manifest["content_hash"])
    assert len(hashes) == 4


def test_a_changed_prefix_is_refused(tmp_path):
    write(tmp_path / "code", make(30))
    append(tmp_path / "code", make(40)[30:])
    append(tmp_path / "code", make(50)[40:])
    kept = tmp_path / "segments"
    (tmp_path / "code" / "segments").rename(kept)
    shutil.rmtree(tmp_path / "code")
    write(tmp_path / "code", make(29))
    kept.rename(tmp_path / "code" / "segments")
    with pytest.raises(
        ValueError, match=r"code is not what .*segments/00001 was appended to; restore it, or delete that"
    ):
        Shards(tmp_path / "code")


def test_a_segment_that_is_being_written_is_not_seen_and_one_that_is_missing_is_named(tmp_path):
    write(tmp_path / "code", make(30))
    segment, after = next_segment(tmp_path / "code")
    described = write_shard(segment / "00000.arrayrecord", make(40)[30:])
    assert len(Shards(tmp_path / "code")) == 30
    finish_shards(segment, [described], source="code", n_bytes=1, lineage={}, after=after)
    append(tmp_path / "code", make(50)[40:])
    assert_equal(Shards(tmp_path / "code").__getitems__(range(50)), make(50))
    shutil.rmtree(segment)
    with pytest.raises(
        ValueError,
        match=r"segments/00001 is missing, and segments behind it are there; restore it or delete them",
    ):
        Shards(tmp_path / "code")


def test_a_kill_while_appending_leaves_the_source_as_it_was(tmp_path):
    write(tmp_path / "code", make(30))
    script = KILLED.replace("write(Path(sys.argv[1]), ", "append(Path(sys.argv[1]), ").replace(
        "import make, write", "import append, make"
    )
    killed = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "code", "10"], cwd=Path(__file__).parents[2], check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert_equal(Shards(tmp_path / "code").__getitems__(range(30)), make(30))
    append(tmp_path / "code", make(33)[30:])
    assert_equal(Shards(tmp_path / "code").__getitems__(range(33)), make(33))


def test_shards_of_an_earlier_version_are_named(tmp_path):
    write(tmp_path / "code", make(30))
    np.save(tmp_path / "code" / "index.npy", np.zeros((30, 1), np.int32))
    with pytest.raises(
        ValueError, match=r"index.npy is of an earlier version; delete the folder and prepare the data again"
    ):
        Shards(tmp_path / "code")
