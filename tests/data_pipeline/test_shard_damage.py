"""Shards that are damaged, incomplete or malformed: named with a remedy, and nothing half-written looks
complete.
"""

import json
import multiprocessing
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from data_pipeline.documents.document import content_id
from data_pipeline.files import OutputError, write_json
from data_pipeline.shards.record import Record, Sequence, pack, unpack
from data_pipeline.shards.shards import (
    Shards,
)
from tests.data_pipeline.shard_files import KILLED, assert_equal, make, write


def test_a_missing_folder_is_named_with_a_remedy(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"nowhere holds no token shards .* prepare the data first"
    ):
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
    with pytest.raises(
        ValueError, match=rf"code/{file} .*; delete the folder and prepare the data again"
    ):
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
        record.id,
        (Sequence(np.concatenate([tokens[:-1], tokens[-1:] ^ 1]).astype(np.int32), weight),),
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
    write_json(tmp_path / "code" / "manifest.json", manifest, sealed=True)
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
        (
            [Record("x", (Sequence(np.zeros(0, np.int32), np.zeros(0, np.uint8)),))],
            "0 tokens with 0 weights",
        ),
        (
            [Record("x", (Sequence(np.zeros(2, np.int32), np.zeros(1, np.uint8)),))],
            "2 tokens with 1 weights",
        ),
    ],
)
def test_malformed_records_are_refused_and_leave_nothing(records, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "code", records)
    assert not list(tmp_path.iterdir())


def test_an_output_that_is_no_folder_is_named_with_a_remedy(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        OutputError,
        match=r"cannot write .*file/code: Not a directory; free space there or choose another",
    ):
        write(tmp_path / "file" / "code", make(3))


def _write_to_a_full_disk(folder: Path) -> str:
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (20_000, 20_000)
    )  # a write beyond it fails as on a full disk
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


def test_shards_of_an_earlier_version_are_named(tmp_path):
    write(tmp_path / "code", make(30))
    np.save(tmp_path / "code" / "index.npy", np.zeros((30, 1), np.int32))
    with pytest.raises(
        ValueError,
        match=r"index.npy is of an earlier version; delete the folder and prepare the data again",
    ):
        Shards(tmp_path / "code")
