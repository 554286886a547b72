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

# Equal documents of two files have equal ids and ranks; then their tokens decide, not the order of arrival.
ORDER = [("rank", "ascending"), ("id", "ascending"), ("tokens", "ascending")]


def sizes_of(encoded: Sequence[Path]) -> dict[int, int]:
    """Shard → bytes of the tokens that go there, from which rounds are planned."""
    sizes: dict[int, int] = {}
    for path in encoded:
        table = pq.read_table(path, columns=["shard", "tokens"])
        lengths = pa.table({"shard": table["shard"], "size": pc.binary_length(table["tokens"])})
        # Summed by Arrow: the tokens themselves are never made Python objects.
        for row in lengths.group_by("shard").aggregate([("size", "sum")]).to_pylist():
            sizes[row["shard"]] = sizes.get(row["shard"], 0) + row["size_sum"]
    return sizes


def write_rows(folder: Path, rows: pa.Table) -> int:
    """Write all documents of one shard in the order of their ranks; returns its number. A process does it."""
    shard = rows["shard"][0].as_py()
    folder.mkdir(parents=True, exist_ok=True)
    written = write_shard(folder / f"{shard:05}.arrayrecord", _records(rows.sort_by(ORDER)))
    write_json(described(folder, shard), written)  # last: where it is, the shard is whole
    return shard


def _records(rows: pa.Table) -> Iterator[Record]:
    """The rows of a shard as records of one sequence."""
    for name, data in zip(rows["id"].to_pylist(), rows["tokens"].to_pylist(), strict=True):
        tokens = np.frombuffer(data, np.int32)
        weight = np.ones(len(tokens), np.uint8)  # each token is a target
        yield Record(name, (Tokens(tokens, weight),))


def described(folder: Path, shard: int) -> Path:
    """The file that holds what the manifest will say of a shard in `folder`."""
    # Beside the shards' folder, which is moved as a whole and must hold nothing else.
    return folder.with_name("described") / f"{shard:05}.json"
