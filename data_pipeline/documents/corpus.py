"""Documents on disk: Parquet in row groups of bounded size, so that any corpus passes through little
memory.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.documents.document import Document
from data_pipeline.files import read_json, writing

SCHEMA = pa.schema([(name, pa.large_string()) for name in Document._fields])
BATCH_BYTES = 4 << 20  # of text in a row group: what a task holds at a time
BATCH_DOCUMENTS = 1000


def write_documents(path: Path, documents: Iterable[Document]) -> int:
    """Write `documents` in their order; returns how many. `path` appears when all are written."""
    return sum(map(len, write_batches(path, batches(documents))))


def write_batches(path: Path, groups: Iterable[list[Document]]) -> Iterator[list[Document]]:
    """Write each batch as a row group and pass it on; `path` appears at the end."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with writing(path):
            writer = pq.ParquetWriter(partial, SCHEMA, compression="zstd")
        try:
            for group in groups:
                table = pa.table([pa.array(values, pa.large_string()) for values in _columns(group)], SCHEMA)
                with writing(path):
                    writer.write_table(table)
                yield group
        finally:
            with writing(path):
                writer.close()
        with writing(path):
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Runs of documents of about `BATCH_BYTES` together, at most `BATCH_DOCUMENTS`."""
    batch, size = [], 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= BATCH_BYTES or len(batch) == BATCH_DOCUMENTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def read_batches(path: Path) -> Iterator[list[Document]]:
    """The documents of a file that `write_documents` wrote, a row group at a time."""
    with pq.ParquetFile(path) as file:
        for number in range(file.num_row_groups):
            columns = file.read_row_group(number, list(Document._fields)).to_pydict()
            yield [Document(*values) for values in zip(*columns.values(), strict=True)]


def read_documents(path: Path) -> Iterator[Document]:
    """The documents of a file that `write_documents` wrote."""
    for batch in read_batches(path):
        yield from batch


def clean_text(data: Path, side: str, source: str) -> Iterator[Document]:
    """The documents that the shards `data`/SIDE/SOURCE were made of, not in their order."""
    for entry in entries(data, side, source):
        yield from read_documents(data / entry["file"])


def entries(data: Path, side: str, source: str) -> list[dict[str, Any]]:
    """What the manifests of the shards `data`/SIDE/SOURCE, its first and all further segments, say of each
    text they were made of.
    """
    folder = data / side / source
    manifests = [folder / "manifest.json", *sorted(folder.glob("segments/*/manifest.json"))]
    return [entry for manifest in manifests for entry in read_json(manifest)["lineage"]["text"]]


def _columns(documents: list[Document]) -> list[tuple[str, ...]]:
    return list(zip(*documents, strict=True)) if documents else [()] * len(Document._fields)


def write_table(path: Path, table: pa.Table, *, rows_a_group: int | None = None) -> None:
    """Write a table as one Parquet file, in one step; the folder is made."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            pq.write_table(table, partial, compression="zstd", row_group_size=rows_a_group)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write JSON lines and return how many; the folder is made, and `path` appears when all are written."""
    partial, n = path.with_name(f".{path.name}.{os.getpid()}.partial"), 0
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                for row in rows:
                    n += 1
                    file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    return n


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file that `write_lines` wrote."""
    with path.open("rb") as file:
        yield from map(json.loads, file)
