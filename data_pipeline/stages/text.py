"""Clean text between the stages: a Parquet file of documents of one part and side, and its record."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from data_pipeline.documents import corpus
from data_pipeline.documents.document import Document
from data_pipeline.files import sha256

TRAIN, HELD_OUT = SIDES = ("train", "held_out")
MODEL, STAGES = "tokenizer.model", "stages"  # in the folder of the data
REPORT = "report.json"  # of a part, beside its text


class Text(NamedTuple):
    """Documents of one part and side as they are after a stage.

    Attributes:
        side: `TRAIN` or `HELD_OUT`.
        source: Its source.
        path: The file.
        sha256: Of the file: what later stages know it by.
        documents: How many.
        bytes: Of the text, in UTF-8.
        lineage: Folder of the ingested part, whose report has the hashes of the raw files.
    """

    side: str
    source: str
    path: Path
    sha256: str
    documents: int
    bytes: int
    lineage: Path


def write_side(path: Path, documents: Iterator[Document]) -> dict[str, Any]:
    """Write documents; returns the fields of their `Text` that only the file can tell."""
    # counted as they pass: the documents may not fit in memory
    n_documents = n_bytes = 0
    for batch in corpus.write_batches(path, corpus.batches(documents)):
        n_documents += len(batch)
        n_bytes += sum(len(document.text.encode()) for document in batch)
    return {"sha256": sha256(path), "documents": n_documents, "bytes": n_bytes}
