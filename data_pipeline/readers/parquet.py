"""Documents from Parquet tables: a row a document, read by row groups."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel

from data_pipeline.documents.columns import Columns
from data_pipeline.documents.document import Document
from data_pipeline.documents.drops import Drops
from data_pipeline.readers.folder import name_of, one_part_a_file
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

    VERSION: ClassVar[int] = 1

    paths: tuple[str, ...]
    columns: Columns = Columns()

    def parts(self, source: str, *, work: Path) -> list[Part]:
        """A part for some 64 MB of row groups; of a file elsewhere, which is fetched whole, one.

        Raises:
            FileNotFoundError: A path does not exist.
            ValueError: A folder has no Parquet file.
        """
        return parquet_parts(
            one_part_a_file(self.paths, (".parquet",), field=f"sources.{source}.paths"), work
        )

    def read(self, part: Part, source: str, *, work: Path, drops: Drops) -> Iterator[Document]:
        """One document a row; a row's place is FILE:ROW, counted from 1.

        Raises:
            ValueError: The table lacks a column of `columns`.
        """
        return parquet_documents(part, self.columns, source, work=work, drops=drops)


def parquet_parts(files: list[Part], work: Path) -> list[Part]:
    """The parts of `one_part_a_file`, each cut into runs of row groups: `detail` is FIRST:LAST+1, "" for
    all.
    """
    return [part for file in files for part in _runs(file, work)]


def _runs(file: Part, work: Path) -> list[Part]:
    # Its footer would have to be fetched whole just to plan; a remote file is one part.
    if local_path(file.inputs[0]) is None:
        return [file]
    try:
        with opened(file.inputs[0], work) as opened_file:
            metadata = pq.read_metadata(opened_file)
    except (OSError, pa.ArrowException):
        return [file]  # which `read` counts
    ends, n_bytes = [0], 0
    for i in range(metadata.num_row_groups):
        group = metadata.row_group(i)
        n_bytes += sum(group.column(j).total_compressed_size for j in range(group.num_columns))
        if n_bytes >= PART_BYTES or i == metadata.num_row_groups - 1:
            ends.append(i + 1)
            n_bytes = 0
    runs = list(zip(ends, ends[1:], strict=False))
    return [
        file._replace(name=f"{file.name}#{start:06d}", detail=f"{start}:{end}")
        for start, end in runs
    ] or [file]


def parquet_documents(
    part: Part, columns: Columns, source: str, *, work: Path, drops: Drops
) -> Iterator[Document]:
    """The documents of one part; a row group that cannot be decoded is counted by its rows, and the next is
    read.
    """
    name = name_of(part).rpartition("#")[0] if part.detail else name_of(part)
    try:
        with opened(part.inputs[0], work) as file:
            try:
                # Pages have checksums only if their writer made them; where there are some, they
                # are compared.
                table = pq.ParquetFile(file, page_checksum_verification=True)
            except (OSError, pa.ArrowException) as error:
                return drops.add(source, "file_damaged", f"{name}: {error}")
            check_columns(table.schema_arrow, columns, f"sources.{source}.columns", name)
            start, end = (
                map(int, part.detail.split(":")) if part.detail else (0, table.num_row_groups)
            )
            # Rows are numbered over the whole file, whichever part reads them.
            n_before = sum(table.metadata.row_group(i).num_rows for i in range(start))
            for i in range(start, end):
                yield from _row_group(table, i, n_before, columns, name, source, drops)
                n_before += table.metadata.row_group(i).num_rows
    except Unreadable as error:
        drops.add(source, "file_unreadable", str(error))


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
