"""Tables for the tests of their readers."""

import json
from pathlib import Path

import pyarrow as pa


def numbered(n: int) -> pa.Table:
    return pa.table({"content": [f"text {i}" for i in range(n)], "n": range(n)})


def save_to_disk(folder: Path, splits: dict[str, pa.Table], n_shards: int = 2) -> None:
    """What `datasets.DatasetDict.save_to_disk` writes (datasets 4)."""
    folder.mkdir()
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    for split, table in splits.items():
        (folder / split).mkdir()
        names = [f"data-{n:05d}-of-{n_shards:05d}.arrow" for n in range(n_shards)]
        size = -(-table.num_rows // n_shards)
        for n, name in enumerate(names):
            with pa.ipc.new_stream(folder / split / name, table.schema) as writer:
                writer.write_table(table.slice(n * size, size), max_chunksize=10)
        state = {
            "_data_files": [{"filename": name} for name in names],
            "_fingerprint": "0",
            "_split": split,
            "_format_type": None,
        }
        (folder / split / "state.json").write_text(json.dumps(state))
        (folder / split / "dataset_info.json").write_text(
            json.dumps({"features": {}, "splits": {}})
        )
