"""Which documents of what was read are not in a finished corpus yet."""

from hashlib import sha256
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq

from data_pipeline.documents.document import Document
from data_pipeline.shards.record import id_key
from data_pipeline.stages.ingest import DOCUMENTS, Ingested, limited


class NotIn(NamedTuple):
    """Contains documents whose id is not among `ids`, those of the finished corpus.

    Attributes:
        ids: `id_key` of each id, uint64 [n], sorted: 8 bytes a document, so that any corpus fits in memory.
    """

    ids: np.ndarray

    def __contains__(self, document: Document) -> bool:
        key = np.uint64(id_key(document.id))

        # A binary search: a set of Python integers would take ten times the memory.
        row = np.searchsorted(self.ids, key)
        return bool(row == len(self.ids) or self.ids[row] != key)

    def fingerprint(self) -> str:
        """Hex SHA-256 of the ids."""
        return sha256(self.ids.tobytes()).hexdigest()


def new_parts(read: list[Ingested], old: list[Ingested]) -> list[Ingested]:
    """The parts that were not read before, each without the documents that `old` parts have.

    A part is a batch of files: one that is added to a folder may come into a batch with known ones.
    """
    keys: list[int] = []
    for part in old:
        ids = pq.read_table(part.folder / DOCUMENTS, columns=["id"])["id"]
        keys += [id_key(name) for name in ids.to_pylist()]
    not_known = NotIn(np.unique(np.array(keys, np.uint64)))

    # The folder's name is a hash of what the part was read from, so a known name is a known part.
    old_folders = {part.folder for part in old}
    added = [part for part in read if part.folder not in old_folders]
    new = [limited(part, not_known, not_known.fingerprint()) for part in added]
    return [part for part in new if part.n_documents]
