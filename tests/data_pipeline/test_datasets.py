"""Hugging Face datasets on disk: saved ones by split, and those of the hub by split and config."""

from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipeline.documents.columns import Columns
from data_pipeline.readers.hugging_face import HuggingFace
from data_pipeline.readers.jsonl import Jsonl
from data_pipeline.readers.parquet import Parquet
from tests.data_pipeline.reading import read, read_with_drops
from tests.data_pipeline.table_files import numbered, save_to_disk


def texts(reader, folder: Path) -> list[str]:
    documents, counts = read(reader, folder)
    assert counts == {}
    return [d.text for d in documents]


def test_a_saved_dataset_is_read_by_split(tmp_path):
    save_to_disk(tmp_path / "d", {"train": numbered(50), "test": numbered(3)})
    columns = Columns(text="content")
    reader = HuggingFace(folder=str(tmp_path / "d"), split="train", columns=columns)
    assert texts(reader, tmp_path) == [f"text {n}" for n in range(50)]
    assert [p.name for p in reader.parts("web", work=tmp_path)] == [
        f"00000/train/data-0000{n}-of-00002.arrow" for n in (0, 1)
    ]
    for folder in ("d", "d/test"):
        assert (
            len(
                texts(
                    HuggingFace(folder=str(tmp_path / folder), split="test", columns=columns),
                    tmp_path,
                )
            )
            == 3
        )
    with pytest.raises(ValueError, match="has no split 'dev'; it has test, train"):
        HuggingFace(folder=str(tmp_path / "d"), split="dev").parts("web", work=tmp_path)
    with pytest.raises(ValueError, match="holds the split 'test', not 'train'; name that one"):
        HuggingFace(folder=str(tmp_path / "d/test"), split="train").parts("web", work=tmp_path)
    (tmp_path / "d/train/data-00001-of-00002.arrow").unlink()
    with pytest.raises(
        ValueError,
        match="lacks train/data-00001-of-00002.arrow, which its state.json names; copy the folder again",
    ):
        reader.parts("web", work=tmp_path)
    (tmp_path / "d/train/state.json").write_text("{")
    with pytest.raises(
        ValueError, match="train/state.json is none of a dataset; copy the folder again"
    ):
        reader.parts("web", work=tmp_path)


@pytest.mark.parametrize("cut", [1, 8, 300, 2_000])
def test_a_damaged_arrow_file_gives_what_comes_before_the_damage(tmp_path, cut):
    save_to_disk(tmp_path / "d", {"train": numbered(100)})
    file = tmp_path / "d/train/data-00000-of-00002.arrow"
    file.write_bytes(file.read_bytes()[:-cut])
    reader = HuggingFace(folder=str(tmp_path / "d"), split="train", columns=Columns(text="content"))
    documents, drops = read_with_drops(reader, tmp_path)
    found = [int(d.text.split()[1]) for d in documents]
    n_before = len(found) - 50
    assert found == [*range(n_before), *range(50, 100)] and n_before % 10 == 0
    assert drops.counts["web"]["damaged_arrow_bytes"] > 0
    assert drops.examples["damaged_arrow_bytes"][0].startswith(
        f"train/data-00000-of-00002.arrow:{n_before + 1}: "
    )


def write_tables(folder: Path, names: list[str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"text": [name]}), folder / name)
    return folder


def test_parquet_files_as_on_the_hub_are_chosen_by_split_and_config(tmp_path):
    names = [
        "en/train-00000-of-00002.parquet",
        "en/train-00001-of-00002.parquet",
        "en/test-00000.parquet",
        "ru/train-00000.parquet",
    ]
    folder = str(write_tables(tmp_path / "d", names))
    assert texts(HuggingFace(folder=folder, split="train", config="en"), tmp_path) == names[:2]
    assert texts(HuggingFace(folder=folder, split="test"), tmp_path) == names[2:3]
    with pytest.raises(
        ValueError, match="has no Parquet file of split 'test'; name a split and config that it has"
    ):
        HuggingFace(folder=folder, split="test", config="ru").parts("web", work=tmp_path)
    plain = str(write_tables(tmp_path / "plain", ["0001.parquet", "trainable/0002.parquet"]))
    assert texts(HuggingFace(folder=plain, split="train"), tmp_path) == [
        "0001.parquet",
        "trainable/0002.parquet",
    ]


CARD = """---
license: mit
configs:
- config_name: default
  data_files:
  - split: train
    path: ["data/a-*.parquet", "extra/*"]
  - split: test
    path: data/b.parquet
- config_name: all
  data_files: data/*
---
# A dataset
"""


def test_a_dataset_card_says_where_splits_lie(tmp_path):
    names = ["data/a-1.parquet", "data/b.parquet", "extra/c.parquet"]
    folder = write_tables(tmp_path / "d", names)
    (folder / "README.md").write_text(CARD)
    for split, config, found in (
        ("train", "", names[::2]),
        ("test", "default", names[1:2]),
        ("train", "all", names[:2]),
    ):
        assert texts(HuggingFace(folder=str(folder), split=split, config=config), tmp_path) == found
    with pytest.raises(
        ValueError, match=r"sources\.web\.config='small' must be one of default, all"
    ):
        HuggingFace(folder=str(folder), split="train", config="small").parts("web", work=tmp_path)
    for broken in ("---\na: [\n---\n", "---\nconfigs: [{name: x}]\n---\n"):
        (folder / "README.md").write_text(broken)
        with pytest.raises(
            ValueError, match=r"sources\.web: README.md cannot be understood \(.*\); mend its YAML"
        ):
            HuggingFace(folder=str(folder), split="train").parts("web", work=tmp_path)


MAKE = {
    "jsonl": lambda path: Jsonl(paths=(path,)),
    "parquet": lambda path: Parquet(paths=(path,)),
    "hub": lambda path: HuggingFace(folder=path, split="train"),
}


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_a_missing_or_empty_source_is_one_clear_error(tmp_path, make):
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        FileNotFoundError, match=r"sources\.mine\.\w+='.*nowhere' does not exist; name an existing"
    ):
        make(str(tmp_path / "nowhere")).parts("mine", work=tmp_path)
    with pytest.raises(
        ValueError,
        match=r"sources\.mine\.\w+='.*empty' holds no \.\w+.* file; name a folder that does",
    ):
        make(str(tmp_path / "empty")).parts("mine", work=tmp_path)


def test_times_inside_structs_odd_zones_and_decimals_cost_no_row(tmp_path):
    moment = pa.array([1_577_934_245_000_000_001, None], pa.int64()).cast(pa.timestamp("ns"))
    inside = pa.StructArray.from_arrays([moment, pa.array(["a", "b"])], ["time", "name"])
    zoned = moment.cast(pa.timestamp("us"), safe=False).cast(pa.timestamp("us", "Mars/Olympus"))
    prices = pa.array([Decimal("1.50"), None])
    table = pa.table({"text": ["one", "two"], "meta": inside, "zoned": zoned, "price": prices})
    pq.write_table(table, tmp_path / "a.parquet")
    for time in ("meta.time", "zoned"):
        columns = Columns(path="meta.name", time=time, licence="price")
        documents, counts = read(Parquet(paths=(str(tmp_path),), columns=columns), tmp_path)
        assert counts == {}
        assert [(d.path, d.time, d.licence) for d in documents] == [
            ("a", "2020-01-02T03:04:05Z", "1.50"),
            ("b", "", ""),
        ]
