"""What a step of the data phase reads of another is proved first: damage is said, set aside and made again."""

import random
import shutil
from pathlib import Path

import pytest

from data_pipeline.files import (
    SEAL,
    OutputError,
    is_proved,
    new_folder,
    read_json,
    set_aside_damaged,
    write_bytes,
    write_json,
)
from tests.data_pipeline.small_job import outputs, prepare

STAGES = ("ingest", "annotate", "across", "select", "separate", "tokenizer", "chats")


def flip(path: Path) -> None:
    """Another value of one bit, anywhere in the file."""
    draw, data = random.Random(path.name), bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def visible(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")
    )


def test_a_flipped_bit_in_a_file_of_any_stage_is_said_and_the_data_is_the_same(raw, data, tmp_path):
    again = tmp_path / "data"
    shutil.copytree(data, again)
    (again / "done.json").unlink()
    chosen = [
        random.Random(stage).choice(visible(again / "stages" / stage)) for stage in STAGES
    ] + [next((again / "stages/separate").rglob("*.found.json"))]
    for path in chosen:
        flip(path)
    said = []
    prepare(raw).execute(again, job_folder=tmp_path, say=said.append)
    warnings = [line for line in said if "is damaged" in line]
    assert len(warnings) == len(chosen)
    for path in chosen:
        assert [line for line in warnings if f"{path.name} has other contents" in line]
    assert outputs(again) == outputs(data)
    said.clear()
    (again / "done.json").unlink()
    prepare(raw).execute(again, job_folder=tmp_path, say=said.append)
    assert not [line for line in said if "is damaged" in line]


SHARDS = (
    "train/web/00000.arrayrecord",
    "train/code/index.npy",
    "held_out/books/manifest.json",
    "train/pairs/manifest.json",
)


def test_a_flipped_bit_in_finished_shards_is_said_and_they_are_the_same_again(raw, data, tmp_path):
    again = tmp_path / "data"
    shutil.copytree(data, again)
    (again / "done.json").unlink()
    for name in SHARDS:
        flip(again / name)
    said = []
    prepare(raw).execute(again, job_folder=tmp_path, say=said.append)
    warnings = [line for line in said if "is damaged" in line]
    assert len(warnings) == len(SHARDS)
    for name in SHARDS:
        folder = Path(name).parent
        aside = f"{folder.parent}-{folder.name}.damaged"
        assert [
            line for line in warnings if f"{again / folder} is damaged" in line and aside in line
        ]
        assert (again / "stages" / aside).is_dir()
    assert outputs(again) == outputs(data)


@pytest.mark.parametrize("damaged", ["00000.arrayrecord", "00001.npy"])
def test_a_flipped_bit_in_a_shard_of_an_unfinished_source_is_said_and_it_is_the_same_again(
    raw, data, tmp_path, damaged
):
    again, said = tmp_path / "data", []
    shutil.copytree(data, again)
    (again / "done.json").unlink()
    key = read_json(again / "train/code/manifest.json")["lineage"]["work"]
    shutil.rmtree(again / "train/code")
    shards = again / "stages/tokens" / key / "shards"
    # It is written beside the shards when all of them are.
    (shards / "index.npy").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"index\.npy"):
        prepare(raw).execute(again, job_folder=tmp_path)
    (shards / "index.npy").rmdir()
    flip(shards / damaged)
    prepare(raw).execute(again, job_folder=tmp_path, say=said.append)
    (warning,) = [line for line in said if "is damaged" in line]
    assert f"{damaged} has other contents" in warning
    assert outputs(again) == outputs(data)


def test_what_killed_writers_left_is_removed(raw, data, tmp_path):
    again = tmp_path / "data"
    shutil.copytree(data, again)
    (again / "done.json").unlink()
    (again / "stages/select/.of_another_key.partial").mkdir()
    (again / "stages/tokens/.x.parquet.77.partial").write_bytes(b"x")
    # finished, and not yet in its place
    shutil.copytree(again / "train/chat", again / "train/.chat.new")
    shutil.rmtree(again / "train/chat")
    prepare(raw).execute(again, job_folder=tmp_path)
    assert not [*again.rglob("*.partial"), *again.rglob("*.new")]
    assert outputs(again) == outputs(data)


def test_files_that_are_missing_or_exchanged_are_found_in_every_sealed_folder(tmp_path):
    for name in ("a", "b"):
        with new_folder(tmp_path / name, sealed=True) as folder:
            write_json(folder / "report.json", name)
            write_bytes(folder / "deep" / "text", name.encode() * 3)
        write_bytes(tmp_path / f"{name}.model", name.encode(), sealed=True)
    assert set_aside_damaged(tmp_path) == []
    (tmp_path / "a/deep/text").unlink()
    shutil.copy(tmp_path / "b.model", tmp_path / "a.model")
    assert sorted(set_aside_damaged(tmp_path)) == [
        f"{tmp_path / 'a'} is damaged (deep/text is missing); it is kept as a.damaged and made again",
        f"{tmp_path / 'a.model'} is damaged (a.model has other contents); "
        "it is kept as a.model.damaged and made again",
    ]
    assert not (tmp_path / "a").exists() and not (tmp_path / "a.model").exists()
    assert set_aside_damaged(tmp_path) == []


def test_a_damaged_seal_proves_nothing(tmp_path):
    path = tmp_path / "x.json"
    seal = tmp_path / f".x.json{SEAL}"
    others = (b"{", b"{}", b"[]", b"[[1, 2]]", b'{"y.json": ""}', b"[" * 100_000)
    damages = [lambda data=data: seal.write_bytes(data) for data in others]
    for damage in (seal.unlink, lambda: flip(seal), *damages):
        write_json(path, {"loss": 1.0}, sealed=True)
        assert is_proved(path)
        damage()
        assert not is_proved(path)


def test_append_refuses_a_tokenizer_that_the_shards_were_not_written_with(raw, data, tmp_path):
    again = tmp_path / "data"
    shutil.copytree(data, again)
    other = again / "tokenizer.model"
    other.write_bytes(other.read_bytes() + b"\n\x05\n\x01x\x15\x00")
    with pytest.raises(ValueError, match=r"tokenizer.model is not the tokenizer .*run the phase"):
        prepare(raw).append(again)
    assert read_json(again / "done.json") == read_json(data / "done.json")
