"""Which documents of what was read are not in a corpus yet."""

from hashlib import sha256
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq

from data_pipeline.documents.document import Document
from data_pipeline.shards.record import id_key
from data_pipeline.stages.ingest import DOCUMENTS, Ingested, limited


class Fresh(NamedTuple):
    """The documents that are not of a finished corpus: their ids are none of these, uint64 [n], sorted."""

    known: np.ndarray

    def __contains__(self, document: Document) -> bool:
        place = np.searchsorted(self.known, np.uint64(id_key(document.id)))
        return bool(place == len(self.known) or self.known[place] != id_key(document.id))


def fresh(read: list[Ingested], old: list[Ingested]) -> list[Ingested]:
    """What is new in the parts that were not read before: a batch of files may have known ones among them."""
    ids = [pq.read_table(part.folder / DOCUMENTS, columns=["id"])["id"].to_pylist() for part in old]
    not_known = Fresh(np.unique(np.array([id_key(name) for names in ids for name in names], np.uint64)))
    folders = {part.folder for part in old}
    new = [
        limited(part, not_known, sha256(not_known.known.tobytes()).hexdigest())
        for part in read
        if part.folder not in folders
    ]
    return [part for part in new if part.n_documents]
