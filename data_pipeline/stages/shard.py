"""Rows of tokens brought together: how much goes to each shard, and one shard's rows as its file."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipeline.files import sha256, write_json
from data_pipeline.shards.record import Record
from data_pipeline.shards.record import Sequence as Tokens
from data_pipeline.shards.shards import write_shard

SHARDS, DESCRIBED = "shards", "described"  # folders in the work folder of a source
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
    path = folder / f"{shard:05}.arrayrecord"
    written = write_shard(path, _records(rows.sort_by(ORDER)))
    # By its hash a later start knows that it is undamaged, as it knows the shard by that in `written`.
    written["index_sha256"] = sha256(index_part(path))
    # Last: where it is, the shard is whole.
    write_json(described(folder, shard), written, sealed=True)
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
    return folder.with_name(DESCRIBED) / f"{shard:05}.json"


def index_part(shard: Path) -> Path:
    """The part of the index that is written with a shard."""
    return shard.with_suffix(".npy")
