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
from data_pipeline.engine.tables import literal

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
    column = daft.col(key)
    # A Ray cluster spills to disk, so it takes all keys in one round.
    for first, last in rounds(sizes, len(sizes) if engine.ray else None):
        # First a range, by which Parquet can skip row groups, then the wanted keys within it.
        in_round = (column >= first) & (column <= last)
        numbers = [number for number in sizes if first <= number <= last]
        rows = (
            daft.read_parquet([literal(file) for file in files])
            .where(in_round)
            .where(column.is_in(numbers))
        )
        result = group.result(*map(daft.col, names)).alias("result")
        for row in rows.groupby(key).map_groups(result).iter_rows():
            yield opened(row["result"])


class _Group:
    """The rows of one key, as the engine hands them over."""

    def __init__(self, function: bytes, names: list[str]):
        self.function = loads(function)
        self.names = names

    @daft.method.batch(return_dtype=daft.DataType.binary())
    def result(self, *columns: daft.Series) -> list[bytes]:
        """The sealed outcome, one row."""
        return [
            sealed(self.function, pa.table([column.to_arrow() for column in columns], self.names))
        ]


def rounds(sizes: dict[int, int], at_once: int | None) -> Iterator[tuple[int, int]]:
    """(first, last) key of each round: `at_once` keys, or as many as fit into `ROUND_BYTES`."""
    round_of: dict[int, int] = {}  # key → its round
    total = 0
    for number, (key, size) in enumerate(sorted(sizes.items())):
        # The round follows from the bytes before the key; a large last key may exceed ROUND_BYTES.
        round_of[key] = number // at_once if at_once else total // ROUND_BYTES
        total += size
    for _, group in groupby(round_of, key=round_of.__getitem__):
        keys = list(group)
        yield keys[0], keys[-1]
