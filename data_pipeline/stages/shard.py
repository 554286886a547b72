"""Rows of tokens brought together: how much goes to each shard, and one shard's rows as its file."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipeline.files import write_json
from data_pipeline.shards.record import Record
from data_pipeline.shards.record import Sequence as Tokens
from data_pipeline.shards.shards import write_shard


def sizes_of(encoded: Sequence[Path]) -> dict[int, int]:
    """Shard → bytes of the tokens that go there, from which rounds are planned."""
    sizes: dict[int, int] = {}
    for path in encoded:
        table = pq.read_table(path, columns=["shard", "tokens"])
        counted = pa.table({"shard": table["shard"], "size": pc.binary_length(table["tokens"])})
        for row in counted.group_by("shard").aggregate([("size", "sum")]).to_pylist():
            sizes[row["shard"]] = sizes.get(row["shard"], 0) + row["size_sum"]
    return sizes


def write_rows(folder: Path, rows: pa.Table) -> int:
    """All documents of one shard, in the order of their ranks: the task of a process."""
    shard = rows["shard"][0].as_py()
    ordered = rows.sort_by([("rank", "ascending"), ("id", "ascending"), ("tokens", "ascending")])
    folder.mkdir(parents=True, exist_ok=True)
    written = write_shard(folder / f"{shard:05}.arrayrecord", _records(ordered))
    write_json(described(folder, shard), written)  # last: the shard is whole
    return shard


def _records(rows: pa.Table) -> Iterator[Record]:
    for name, data in zip(rows["id"].to_pylist(), rows["tokens"].to_pylist(), strict=True):
        tokens = np.frombuffer(data, np.int32)
        yield Record(name, (Tokens(tokens, np.ones(len(tokens), np.uint8)),))  # each token is a target


def described(folder: Path, shard: int) -> Path:
    """The file that says of a shard in `folder` what its manifest will."""
    return folder.with_name("described") / f"{shard:05}.json"
