"""Stage 1: the parts of every source → documents, one Parquet file a part, with what was dropped on the way
counted.
"""

from collections.abc import Callable, Container, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipeline import settings
from data_pipeline.documents import corpus
from data_pipeline.documents.document import Document
from data_pipeline.documents.drops import Drops, merged, reasons
from data_pipeline.documents.sampling import key_of
from data_pipeline.engine.runner import Engine
from data_pipeline.files import new_folder, read_json, sha256, write_json, write_npy
from data_pipeline.readers.part import Part, Reader
from data_pipeline.readers.storage import sha256_of, state_of

VERSION = 2  # of what this stage makes of the same parts and readers
DOCUMENTS, REPORT, RANKED = "documents.parquet", "report.json", "ranked.npy"
# Of one document: rules need some 60 bytes of memory a byte of text, so that a process stays below 2 GiB; the
# largest dictionaries have 20 MB.
MAX_DOCUMENT_BYTES = 32 << 20
LARGEST_FRAC = 0.25  # of limit_mib: a larger document would crowd out the rest of a small sample
Task = tuple[str, Part, Path]  # source, part, folder


class Sample(NamedTuple):
    """Which documents of a source take part when it is made small: those of low rank, none that would crowd
    out the rest.
    """

    below: int  # rank
    max_bytes: float

    def __contains__(self, document: Document) -> bool:
        return rank_of(document) < self.below and n_bytes(document) <= self.max_bytes


class Ingested(NamedTuple):
    """One part as it was read.

    Attributes:
        source: Its source.
        name: Of the part.
        folder: Where its documents and report are.
        key: Hash of its content: what later stages know it by.
        n_documents: That take part.
        groups: Of these, each once, sorted.
        sample: Which take part; None = all.
    """

    source: str
    name: str
    folder: Path
    key: str
    n_documents: int
    groups: tuple[str, ...]
    sample: Container | None = None  # of documents

    def batches(self) -> Iterator[list[Document]]:
        """The documents that take part."""
        for batch in corpus.read_batches(self.folder / DOCUMENTS):
            if self.sample is not None:
                batch = [document for document in batch if document in self.sample]
            yield batch

    def report(self) -> dict[str, Any]:
        """What was read, dropped and why, and the hashes of the raw files."""
        return read_json(self.folder / REPORT)


def rank_of(document: Document) -> int:
    """A number in [0, 2**64) that puts documents in an order of no meaning, the same in every run."""
    return int.from_bytes(key_of("rank", document.path, document.id))


def n_bytes(document: Document) -> int:
    """Size of the text in UTF-8."""
    # UTF-8 has no lone surrogates; a later rule drops them, and here one counts as three bytes.
    return len(document.text.encode(errors="surrogatepass"))


def ingest(
    sources: dict[str, Reader],
    folder: Path,
    *,
    work: Path,
    limit_mib: float | None,
    engine: Engine,
    advance: Callable[[], None],
) -> list[Ingested]:
    """Read what was not read before; the parts of all sources, in their order.

    Raises:
        ValueError: as a reader says; or a source gave no document.
    """
    tasks: dict[str, list[Task]] = {}
    for source, reader in sources.items():
        made_by = [VERSION, source, settings.described(reader), settings.library_versions()]
        tasks[source] = []
        for part in reader.parts(source, work=work):
            # Sizes and times of the inputs tell whether a file has changed, without reading it.
            states = [state_of(path) for path in part.inputs]
            key = settings.digest([*made_by, part, states])
            tasks[source].append((source, part, folder / source / key))
    missing = [task for of_source in tasks.values() for task in of_source if not task[2].exists()]
    for _ in engine.map(partial(_read, sources, work), missing):
        advance()
    parts = []
    for source, of_source in tasks.items():
        parts += _taking_part(of_source, source, limit_mib)
    return parts


def _read(sources: dict[str, Reader], work: Path, task: Task) -> None:
    """Read one part into its folder; a process does it."""
    source, part, folder = task
    if folder.exists():
        return  # a worker that died had just finished it
    drops = Drops()
    groups: set[str] = set()
    ranked: list[tuple[int, int]] = []  # rank and size of each document
    with new_folder(folder, sealed=True) as partial_folder:

        def documents() -> Iterator[Document]:
            for document in sources[source].read(part, source, work=work, drops=drops):
                size = n_bytes(document)
                if size > MAX_DOCUMENT_BYTES:
                    drops.add(source, "document_too_large", f"{document.path}: {size:,} bytes")
                    continue
                groups.add(document.group)
                ranked.append((rank_of(document), size))
                yield document

        n_documents = corpus.write_documents(partial_folder / DOCUMENTS, documents())
        # Ranks and sizes alone: another limit_mib then reads no text again.
        write_npy(partial_folder / RANKED, np.array(ranked, np.uint64).reshape(-1, 2))
        report = {
            "part": part.name,
            "inputs": {path: sha256_of(path, work) for path in part.inputs},
            "sha256": sha256(partial_folder / DOCUMENTS),
            "documents": n_documents,
            "groups": sorted(groups),
            **drops.as_json(),
        }
        write_json(partial_folder / REPORT, report)


def _taking_part(tasks: list[Task], source: str, limit_mib: float | None) -> list[Ingested]:
    """The parts of one source, without the documents that `limit_mib` leaves out."""
    parts = [stored(source, folder) for _, _, folder in tasks]
    if limit_mib is not None:
        sample = _sample([part.folder for part in parts], limit_mib * 2**20)
        parts = [limited(part, sample, list(sample)) for part in parts]
    if not sum(part.n_documents for part in parts):
        reports = [part.report() for part in parts]
        why = reasons(merged(reports), source)
        n_read = sum(report["documents"] for report in reports)
        if n_read:
            why += f"; {n_read} documents read, all left out by limit_mib={limit_mib}"
        raise ValueError(
            f"sources.{source} gave no document ({why}); check its fields, and limit_mib if it is set"
        )
    return parts


def _sample(folders: list[Path], limit: float) -> Sample:
    """Documents in the order of their ranks, as many as sum to at most `limit` bytes."""
    ranked = np.concatenate([np.load(folder / RANKED) for folder in folders])
    # Large documents go first: the sum below is over those that take part.
    ranked = ranked[ranked[:, 1] <= limit * LARGEST_FRAC]
    ranked = ranked[np.argsort(ranked[:, 0], kind="stable")]
    # The first rank that no longer fits is the bound: `Sample` needs no list of documents.
    n_fitting = int(np.searchsorted(np.cumsum(ranked[:, 1]), limit, side="right"))
    below = int(ranked[n_fitting, 0]) if n_fitting < len(ranked) else 1 << 64  # all ranks are less
    return Sample(below, limit * LARGEST_FRAC)


def limited(part: Ingested, sample: Container, described: Any) -> Ingested:
    """The part with those documents alone that `sample`, which `described` stands for, contains."""
    # For later stages another sample is another content.
    part = part._replace(sample=sample, key=settings.digest([part.key, described]))
    groups = [document.group for batch in part.batches() for document in batch]
    return part._replace(n_documents=len(groups), groups=tuple(sorted(set(groups))))


def stored(source: str, folder: Path) -> Ingested:
    """A part that was read before."""
    report = read_json(folder / REPORT)

    # 16 hex digits: 2^64 contents are enough for a name
    key = report["sha256"][:16]
    return Ingested(
        source, report["part"], folder, key, report["documents"], tuple(report["groups"])
    )
