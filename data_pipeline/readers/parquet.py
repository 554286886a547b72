"""Documents from Parquet tables: a row a document, read by row groups."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel

from data_pipeline.documents.columns import Columns
from data_pipeline.documents.document import Document
from data_pipeline.documents.drops import Drops
from data_pipeline.readers.folder import File, batches, files_of, files_of_paths, part_of
from data_pipeline.readers.part import Part
from data_pipeline.readers.storage import Unreadable, local_path, opened
from data_pipeline.readers.tables import check_columns, documents_of

# A few seconds of work, as for the other readers.
PART_BYTES = 64 << 20  # of row groups as they are stored
# Few rows at a time: a row may be a whole book.
BATCH_ROWS = 256


class Parquet(BaseModel, frozen=True, extra="forbid", strict=True):
    """Parquet files.

    Attributes:
        paths: Files or URLs, or folders searched for .parquet files.
        columns: Which columns are read.
    """

    VERSION: ClassVar[int] = 2

    paths: tuple[str, ...]
    columns: Columns = Columns()

    def parts(self, source: str, *, work: Path) -> list[Part]:
        """A part for some 64 MB of small files or of the row groups of a large one; of a file elsewhere,
        which is fetched whole, one.

        Raises:
            FileNotFoundError: A path does not exist.
            ValueError: A folder has no Parquet file, or no file has the columns.
        """
        found = files_of_paths(self.paths, (".parquet",), field=f"sources.{source}.paths")
        require_columns([file for files in found for file in files], self.columns, source, work)
        parts = []
        for number, files in enumerate(found):
            parts += parquet_parts(files, work, number)
        return parts

    def read(self, part: Part, source: str, *, work: Path, drops: Drops) -> Iterator[Document]:
        """One document a row; a row's place is FILE:ROW, counted from 1. A file without the columns is
        counted.
        """
        return parquet_documents(part, self.columns, source, work=work, drops=drops)


def require_columns(files: list[File], columns: Columns, source: str, work: Path) -> None:
    """Nothing when the first file on this disk that can be read, or any after it, has the columns.

    Raises:
        ValueError: None has; of the first it is said what it has.
    """
    missing = None
    for file in files:
        metadata = _metadata(file, work)
        if metadata is None:
            continue
        try:
            schema = metadata.schema.to_arrow_schema()
            return check_columns(schema, columns, f"sources.{source}.columns", file.name)
        except ValueError as error:
            missing = missing or error
    if missing is not None:
        raise missing


def parquet_parts(files: list[File], work: Path, number: int = 0) -> list[Part]:
    """Small files together; each large one cut into runs of row groups, FIRST:LAST+1 behind the `detail` of
    `part_of`.
    """
    parts: list[Part] = []
    for batch in batches(files):
        # A large file ends its batch; what came before it stays together.
        large = batch.pop() if batch[-1].n_bytes > PART_BYTES else None
        if batch:
            part = part_of(batch, number)
            parts.append(part._replace(name=f"{part.name}#000000"))
        if large is not None:
            parts += _runs(large, work, number)
    return parts


def _metadata(file: File, work: Path) -> pq.FileMetaData | None:
    # A remote file's footer would have to be fetched whole just to plan.
    if local_path(file.path) is None:
        return None
    try:
        with opened(file.path, work) as opened_file:
            return pq.read_metadata(opened_file)
    except (OSError, pa.ArrowException):
        return None  # which `read` counts


def _runs(file: File, work: Path, number: int) -> list[Part]:
    part, metadata = part_of([file], number), _metadata(file, work)
    if metadata is None:
        return [part]
    ends, n_bytes = [0], 0
    for i in range(metadata.num_row_groups):
        group = metadata.row_group(i)
        n_bytes += sum(group.column(j).total_compressed_size for j in range(group.num_columns))
        if n_bytes >= PART_BYTES or i == metadata.num_row_groups - 1:
            ends.append(i + 1)
            n_bytes = 0
    runs = list(zip(ends, ends[1:], strict=False))
    return [
        part._replace(name=f"{part.name}#{start:06d}", detail=f"{part.detail}#{start}:{end}")
        for start, end in runs
    ] or [part]


def parquet_documents(
    part: Part, columns: Columns, source: str, *, work: Path, drops: Drops
) -> Iterator[Document]:
    """The documents of one part; a row group that cannot be decoded is counted by its rows, and the next is
    read.
    """
    # Names end in a bracket, so that a "#" behind it is none of theirs.
    names, bracket, run = part.detail.rpartition("]#")
    files = part._replace(detail=names + "]") if bracket else part
    for path, name in files_of(files):
        try:
            with opened(path, work) as file:
                yield from _table(file, name, run if bracket else "", columns, source, drops)
        except Unreadable as error:
            drops.add(source, "file_unreadable", str(error))


def _table(
    file: BinaryIO, name: str, run: str, columns: Columns, source: str, drops: Drops
) -> Iterator[Document]:
    try:
        # Pages have checksums only if their writer made them; where there are some, they are compared.
        table = pq.ParquetFile(file, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        return drops.add(source, "file_damaged", f"{name}: {error}")
    try:
        check_columns(table.schema_arrow, columns, f"sources.{source}.columns", name)
    except ValueError as error:  # some other file has them, see `require_columns`
        return drops.add(source, "file_without_columns", str(error))
    start, end = map(int, run.split(":")) if run else (0, table.num_row_groups)
    # Rows are numbered over the whole file, whichever part reads them.
    n_before = sum(table.metadata.row_group(i).num_rows for i in range(start))
    for i in range(start, end):
        yield from _row_group(table, i, n_before, columns, name, source, drops)
        n_before += table.metadata.row_group(i).num_rows


def _row_group(
    table: pq.ParquetFile,
    i: int,
    n_before: int,
    columns: Columns,
    name: str,
    source: str,
    drops: Drops,
) -> Iterator[Document]:
    n_rows, n_read = table.metadata.row_group(i).num_rows, 0
    # Without threads: every process of the engine reads a part of its own already.
    batches = table.iter_batches(
        BATCH_ROWS, row_groups=[i], columns=list(columns.wanted()), use_threads=False
    )
    while n_read < n_rows:
        try:
            batch = next(batches)
        except (OSError, pa.ArrowException, StopIteration) as error:
            place = f"{name}:{n_before + n_read + 1} to {n_before + n_rows}"
            return drops.add(source, "damaged_rows", f"{place}: {error}", n_rows - n_read)
        yield from documents_of(batch, n_before + n_read, columns, name, source, drops)
        n_read += batch.num_rows
