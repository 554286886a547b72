"""Rows of Arrow tables on their way to documents."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from data_pipeline.documents.columns import Columns
from data_pipeline.documents.document import Document
from data_pipeline.documents.drops import Drops
from data_pipeline.readers.storage import Unreadable, opened

# Arrow's end-of-stream marker: continuation bytes, then a length of zero.
END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


def check_columns(schema: pa.Schema, columns: Columns, field: str, name: str) -> None:
    """Fail before any row is read when the table lacks a column.

    Raises:
        ValueError: It does.
    """
    for wanted in columns.wanted():
        if wanted not in schema.names and not _is_inside(schema, wanted):
            raise ValueError(
                f"{field} names {wanted!r}, which {name} lacks; it has {', '.join(schema.names)}"
            )


def _is_inside(schema: pa.Schema, name: str) -> bool:
    # `a.b` is the field b of the struct column a, unless a column has a dot in its name.
    outer, *inner = name.split(".")
    kind = schema.field(outer).type if outer in schema.names else None
    for part in inner:
        position = kind.get_field_index(part) if isinstance(kind, pa.StructType) else -1
        kind = kind.field(position).type if position >= 0 else None
    return kind is not None


def documents_of(
    batch: pa.RecordBatch, n_before: int, columns: Columns, name: str, source: str, drops: Drops
) -> Iterator[Document]:
    """One document a row; `n_before` rows of the file come before the batch."""
    for i in range(batch.num_rows):
        place = f"{name}:{n_before + i + 1}"
        try:
            # Row by row: one undecodable string costs its row, not the batch.
            row = {
                column: _value(batch.column(j)[i]) for j, column in enumerate(batch.schema.names)
            }
        except UnicodeDecodeError:
            drops.add(source, "row_not_utf8", place)
            continue
        except (ValueError, OverflowError) as error:  # a date that Python's calendar has not
            drops.add(source, "row_bad_value", f"{place}: {error}")
            continue
        document = columns.document(row, place, source, drops)
        if document is not None:
            yield document


def _value(scalar: pa.Scalar) -> Any:
    """The value as Python has it; of nanoseconds, which it has not, the microseconds, in UTC whatever the
    name of the zone.
    """
    kind = scalar.type
    if not scalar.is_valid:
        return None
    if pa.types.is_struct(kind):
        return {kind.field(i).name: _value(scalar[i]) for i in range(kind.num_fields)}
    if pa.types.is_timestamp(kind):
        # Arrow counts from 1970 in UTC wherever there is a zone, whose name need not be known here.
        zone = "UTC" if kind.tz else None
        nanoseconds = kind.unit == "ns"
        value = scalar.value // 1000 if nanoseconds else scalar.value
        scalar = pa.scalar(value, pa.timestamp("us" if nanoseconds else kind.unit, zone))
    return scalar.as_py()


def arrow_documents(
    path: str, name: str, columns: Columns, source: str, *, work: Path, drops: Drops
) -> Iterator[Document]:
    """The documents of an Arrow stream; from a batch that cannot be decoded on, the rest of the file is
    counted in bytes.
    """
    n_before = 0
    try:
        with opened(path, work) as file:
            batches = _batches(file)
            while True:
                try:
                    batch = next(batches, None)
                except (OSError, pa.ArrowException) as error:
                    # A stream has no index: after a batch of unknown length nothing can be found
                    # again.
                    n_bytes = os.fstat(file.fileno()).st_size - file.tell()
                    return drops.add(
                        source,
                        "damaged_arrow_bytes",
                        f"{name}:{n_before + 1}: {error}",
                        max(n_bytes, 1),
                    )
                if batch is None:
                    return
                check_columns(batch.schema, columns, f"sources.{source}.columns", name)
                yield from documents_of(batch, n_before, columns, name, source, drops)
                n_before += batch.num_rows
    except Unreadable as error:
        drops.add(source, "file_unreadable", str(error))


def _batches(file: BinaryIO) -> Iterator[pa.RecordBatch]:
    with pa.ipc.open_stream(file) as reader:
        for batch in reader:
            batch.validate(full=True)  # else damaged offsets read outside the batch
            yield batch
        # pyarrow ends a stream cut at a batch's edge without a word, so the marker is asked for.
        file.seek(-min(len(END_OF_STREAM), os.fstat(file.fileno()).st_size), os.SEEK_END)
        if file.read() != END_OF_STREAM:
            raise pa.ArrowInvalid("the stream breaks off")
