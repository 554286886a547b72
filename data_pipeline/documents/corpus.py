"""Documents on disk: Parquet in row groups of bounded size, so that any corpus passes through little
memory.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.documents.document import Document
from data_pipeline.files import partial_file, read_json, writing

SCHEMA = pa.schema([(name, pa.large_string()) for name in Document._fields])
BATCH_BYTES = 4 << 20  # of text in a row group: what a task holds at a time
BATCH_DOCUMENTS = 1000


def write_documents(path: Path, documents: Iterable[Document]) -> int:
    """Write `documents` in their order; returns how many. `path` appears when all are written."""
    return sum(map(len, write_batches(path, batches(documents))))


def write_batches(
    path: Path, groups: Iterable[list[Document]], *, sealed: bool = False
) -> Iterator[list[Document]]:
    """Write each batch as a row group and pass it on; `path` appears at the end.

    Raises:
        OutputError: the disk is full or read-only. What drawing the batches raises is passed on as it is.
    """
    partial_of = partial_file(path, writer=_me(), sealed=sealed)
    with partial_of as partial, _writer(partial) as writer:
        for group in groups:
            columns = zip(*group, strict=True) if group else [()] * len(SCHEMA)
            # large_string: a row group of long texts may exceed the 2 GiB of 32-bit offsets.
            table = pa.table([pa.array(values, pa.large_string()) for values in columns], SCHEMA)
            with writing(path):
                writer.write_table(table)
            yield group


def _me() -> str:
    """A name for this writer: a task that was given up as lost may still be writing when another process
    repeats it.
    """
    return str(os.getpid())


@contextlib.contextmanager
def _writer(path: Path) -> Iterator[pq.ParquetWriter]:
    with writing(path):
        # zstd: text is written once and read many times, so a small file is worth slower writing
        writer = pq.ParquetWriter(path, SCHEMA, compression="zstd")
    try:
        yield writer
    finally:
        with writing(path):
            writer.close()


def batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Runs of documents of about `BATCH_BYTES` together, at most `BATCH_DOCUMENTS`."""
    batch: list[Document] = []
    n_chars = 0  # characters instead of bytes, for which each text would be encoded
    for document in documents:
        batch.append(document)
        n_chars += len(document.text)
        if n_chars >= BATCH_BYTES or len(batch) == BATCH_DOCUMENTS:
            yield batch
            batch = []
            n_chars = 0
    if batch:
        yield batch


def read_batches(path: Path) -> Iterator[list[Document]]:
    """The documents of a file that `write_documents` wrote, a row group at a time."""
    with pq.ParquetFile(path) as file:
        # One row group in memory at a time, however large the file is.
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
    # in the order of the segments, whose names are zero-padded numbers
    manifests = [folder / "manifest.json", *sorted(folder.glob("segments/*/manifest.json"))]
    return [entry for manifest in manifests for entry in read_json(manifest)["lineage"]["text"]]


def write_table(path: Path, table: pa.Table, *, rows_a_group: int | None = None) -> None:
    """Write a table as one sealed Parquet file, in one step; the folder is made."""
    with writing(path), partial_file(path, writer=_me(), sealed=True) as partial:
        pq.write_table(table, partial, compression="zstd", row_group_size=rows_a_group)
