"""Which documents share a key: the one daft query that all comparison across documents rests on, the
Parquet files around it, and daft's own kernel for keys of near-duplicates.

A table of keys is a Parquet file with a row a document: `document` (int64, unique over all tables; of equal
documents the lowest is kept) and columns of uint64 keys, one a document or a list; NO_KEY is equal to
nothing.
"""

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.documents.corpus import write_table as write_table  # rules write verdicts by it

DOCUMENT = "document"
NO_KEY = 0  # the key of what has no words: equal to nothing
# daft's embedded runner holds the groups of a query in memory, ~100 bytes a key: more keys go in several
# queries, a residue class each
KEYS_A_QUERY = 1 << 22
ROWS_A_BATCH = 1 << 16
EMPTY = pa.table(
    {
        "key": pa.array([], pa.uint64()),
        "first": pa.array([], pa.int64()),
        "n_documents": pa.array([], pa.int64()),
    }
)


def minhash(texts: list[str], *, n_permutations: int, shingle_words: int, seed: int) -> np.ndarray:
    """For each permutation the least hash of a text's shingles (runs of words parted by single spaces),
    uint32 [n, n_permutations]. Computed in this process: no query, no scheduler, so any worker can call it.

    A text with fewer words than a shingle has one shingle: itself.
    """
    from daft import Series  # half a second: only when documents are hashed

    series = Series.from_arrow(pa.array(texts, pa.large_string()))
    # the hash is named: daft's default may be another one tomorrow
    hashes = series.minhash(n_permutations, shingle_words, seed, "xxhash3_64")
    return hashes.to_arrow().flatten().to_numpy().reshape(len(texts), n_permutations)


def literal(path: Path) -> str:
    """A path as daft takes it: absolute, because a relative one may look like a URL (`a:b`), and with its
    special characters escaped, because else it is a pattern.
    """
    return re.sub(r"([*?\[\]{}\\])", r"\\\1", str(Path(path).absolute()))


class Shared(NamedTuple):
    """Keys that several documents have.

    Attributes:
        keys: Sorted, uint64 [k].
        first: The lowest document with each, int64 [k].
        n_documents: How many have it, int64 [k].
    """

    keys: np.ndarray
    first: np.ndarray
    n_documents: np.ndarray

    def find(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(whether each of `keys` is here, its row; the row means nothing where it is not)."""
        if not len(self.keys):
            return np.zeros(len(keys), bool), np.zeros(len(keys), np.int64)
        # A key above all others would get an index beyond the last row.
        row = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return self.keys[row] == keys, row


def shared(tables: Sequence[Path], column: str, *, more_than: int) -> Shared:
    """The keys of `column` that more than `more_than` documents have; a key twice in one document's list
    counts once.

    Memory: what it returns, and KEYS_A_QUERY groups in the embedded runner.
    """
    import daft  # half a second: only when documents are compared

    # A file without rows may have no columns either.
    tables = [path for path in tables if n_rows([path])]
    col = daft.col
    n_queries = _n_queries(tables, column)
    answers = [EMPTY]
    for residue in range(n_queries):
        rows = daft.read_parquet([literal(path) for path in tables]).select(
            DOCUMENT, col(column).alias("key")
        )
        if is_list(tables[0], column):
            rows = rows.with_column("key", col("key").list_distinct()).explode("key")
        rows = rows.where(col("key") != daft.lit(NO_KEY).cast(daft.DataType.uint64()))
        if n_queries > 1:
            rows = rows.where((col("key") % n_queries) == residue)
        groups = rows.groupby("key").agg(
            col(DOCUMENT).min().alias("first"), col(DOCUMENT).count().alias("n_documents")
        )
        answers.append(groups.where(col("n_documents") > more_than).to_arrow())

    def answered(name: str) -> np.ndarray:
        return np.concatenate([table[name].to_numpy() for table in answers])

    # Sorted for `find`: the order of daft's groups is not defined.
    order = np.argsort(answered("key"))
    return Shared(
        answered("key")[order].astype(np.uint64),
        answered("first")[order].astype(np.int64),
        answered("n_documents")[order].astype(np.int64),
    )


def _n_queries(tables: Sequence[Path], column: str) -> int:
    """None without rows; one on a cluster, whose shuffles go to disk; on one machine as many as keep memory
    bounded.
    """
    import daft

    if not tables:
        return 0
    if daft.runners.get_or_create_runner().name != "native":
        return 1
    n_keys = sum(_n_values(path, column) for path in tables)
    return max(1, math.ceil(n_keys / KEYS_A_QUERY))


def _n_values(table: Path, column: str) -> int:
    """Values of a column, those in lists counted one by one, from the file's footer alone."""
    metadata = pq.read_metadata(table)
    n = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for chunk in map(group.column, range(group.num_columns)):
            # the column of a list is named "column.list.element" here
            if chunk.path_in_schema.split(".")[0] == column:
                n += chunk.num_values
    return n


def is_list(table: Path, column: str) -> bool:
    """Whether the column holds lists of keys."""
    kind = pq.read_schema(table).field(column).type
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def n_rows(tables: Sequence[Path]) -> int:
    """The number of documents in all tables, from their footers alone."""
    return sum(pq.read_metadata(path).num_rows for path in tables)


def batches(tables: Sequence[Path], *columns: str) -> Iterator[pa.RecordBatch]:
    """The rows of all tables, some at a time."""
    for path in (path for path in tables if n_rows([path])):
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(ROWS_A_BATCH, columns=[DOCUMENT, *columns])


def flat(batch: pa.RecordBatch, column: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(document, number in its list, value) of every element of a column of lists."""
    lists = batch[column]
    lengths = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    number = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    document = np.repeat(batch[DOCUMENT].to_numpy(), lengths)
    return document, number, lists.flatten().to_numpy(zero_copy_only=False)


class Clusters:
    """Documents joined by pairs, pair by pair; memory: 16 bytes a document that has a partner, not a pair."""

    def __init__(self) -> None:
        self.documents = np.zeros(0, np.int64)  # sorted
        self.lowest = np.zeros(0, np.int64)  # of each one's cluster

    def join(self, a: np.ndarray, b: np.ndarray) -> None:
        """Put document a[i] into one cluster with b[i], for all i."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        # Clusters so far are added as pairs: each document with the lowest of its cluster.
        a = np.concatenate([self.documents, a])
        b = np.concatenate([self.lowest, b])
        documents, node = np.unique(np.concatenate([a, b]), return_inverse=True)
        if not len(documents):
            return
        ones = np.ones(len(a), bool)
        edges = (node[: len(a)], node[len(a) :])
        graph = coo_array((ones, edges), shape=(len(documents), len(documents)))
        _, cluster = connected_components(graph, directed=False)
        # Documents are sorted, so the first of a cluster is its lowest.
        _, first = np.unique(cluster, return_index=True)
        self.documents = documents
        self.lowest = documents[first][cluster]

    def columns(self) -> dict[str, np.ndarray]:
        """`document` (sorted), `cluster` (its lowest document) and `size` of every document that has a
        partner.
        """
        _, cluster, n = np.unique(self.lowest, return_inverse=True, return_counts=True)
        return {DOCUMENT: self.documents, "cluster": self.lowest, "size": n[cluster]}


def clusters(keys: Sequence[Path], columns: Sequence[str]) -> dict[str, np.ndarray]:
    """The clusters of documents that share a value in one of the columns, compared a column at a time; see
    `Clusters.columns`.
    """
    joined = Clusters()
    for column in columns:
        common = shared(keys, column, more_than=1)
        pairs = [np.zeros((2, 0), np.int64)]  # a document, and the lowest that has its key
        for batch in batches(keys, column) if len(common.keys) else ():
            is_shared, row = common.find(batch[column].to_numpy())
            documents = batch[DOCUMENT].to_numpy()[is_shared]
            pairs.append(np.stack([documents, common.first[row[is_shared]]]))
        joined.join(*np.concatenate(pairs, axis=1))
    return joined.columns()
