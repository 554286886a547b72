"""Rows of many files brought together by a key: daft's shuffle, in rounds that fit into memory on the
embedded runner.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

import daft
import pyarrow as pa
import pyarrow.parquet as pq
from daft.pickle import dumps, loads

from data_pipeline.engine.runner import Engine, opened, sealed

ROUND_BYTES = 512 << 20  # of rows that the embedded runner, which spills nothing, holds at a time


def by_key[R](
    engine: Engine,
    files: Sequence[Path],
    key: str,
    function: Callable[[pa.Table], R],
    *,
    sizes: dict[int, int],
) -> Iterator[R]:
    """What `function` makes of all rows of each key, in no certain order.

    Args:
        engine: Where it runs.
        files: Parquet files, each sorted by `key`, so that a round skips the row groups of other rounds.
        key: A column of integers.
        function: Gets the rows of one key in no certain order; they must fit into memory. It travels by
        pickle, as its results do.
        sizes: Key → bytes of its rows, for the keys that are wanted.
    """
    engine.start()
    names = pq.read_schema(files[0]).names
    group = daft.cls(_Group)(dumps(function), names)
    for first, last in rounds(sizes, len(sizes) if engine.ray else None):
        rows = daft.read_parquet([str(file) for file in files]).where(
            (daft.col(key) >= first) & (daft.col(key) <= last)
        )
        wanted = rows.where(daft.col(key).is_in([number for number in sizes if first <= number <= last]))
        for row in (
            wanted.groupby(key).map_groups(group.made(*map(daft.col, names)).alias("result")).iter_rows()
        ):
            yield opened(row["result"])


class _Group:
    """The rows of one key, as the engine hands them over."""

    def __init__(self, function: bytes, names: list[str]):
        self.function, self.names = loads(function), names

    @daft.method.batch(return_dtype=daft.DataType.binary())
    def made(self, *columns: daft.Series) -> list[bytes]:
        """The sealed outcome, one row."""
        return [sealed(self.function, pa.table([column.to_arrow() for column in columns], self.names))]


def rounds(sizes: dict[int, int], at_once: int | None) -> Iterator[tuple[int, int]]:
    """(first, last) key of each round: `at_once` keys, or as many as fit into `ROUND_BYTES`."""
    total, numbered = 0, []
    for place, (key, size) in enumerate(sorted(sizes.items())):
        numbered.append((place // at_once if at_once else total // ROUND_BYTES, key))
        total += size
    for _, keys in groupby(numbered, key=lambda pair: pair[0]):
        members = [key for _, key in keys]
        yield members[0], members[-1]
