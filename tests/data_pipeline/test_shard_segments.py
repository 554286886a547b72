"""Shards written by many processes, and segments appended behind a source."""

import itertools
import json
import multiprocessing
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipeline.shards.shards import (
    Shards,
    finish_shards,
    next_segment,
    write_shard,
)
from tests.data_pipeline.shard_files import KILLED, append, assert_equal, make, write


def _write_file(folder: Path, number: int) -> dict:
    return write_shard(
        folder / f"{number:05}.arrayrecord", iter(make(30)[7 * number : 7 * number + 7])
    )


def test_files_written_by_many_processes_are_the_folder_that_one_writes(tmp_path):
    write(tmp_path / "one", make(30))
    (tmp_path / "many").mkdir()
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        described = pool.starmap(
            _write_file, [(tmp_path / "many", number) for number in (4, 2, 0, 1, 3)]
        )
    described = json.loads(json.dumps(sorted(described, key=lambda shard: shard["file"])))
    with pytest.raises(FileNotFoundError):
        Shards(tmp_path / "many")
    for _ in range(2):  # as after a kill between the manifest and the end
        finish_shards(
            tmp_path / "many", described, source="code", n_bytes=1234, lineage={"tokenizer": "abc"}
        )
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
    assert (shards.manifest["documents"], shards.manifest["bytes"]) == (
        50,
        1434,
    ) and shards.manifest["tokens"] == shards.lengths.sum()
    assert_equal(
        pickle.loads(pickle.dumps(shards)).__getitems__(order), [records[i] for i in order]
    )
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
        ValueError,
        match=r"code is not what .*segments/00001 was appended to; restore it, or delete that",
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
        [sys.executable, "-c", script, tmp_path / "code", "10"],
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert_equal(Shards(tmp_path / "code").__getitems__(range(30)), make(30))
    append(tmp_path / "code", make(33)[30:])
    assert_equal(Shards(tmp_path / "code").__getitems__(range(33)), make(33))
