"""Raw input → text on disk: one JSON line a document (or conversation, or pair), one file a source and side."""

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from data_pipeline.document import Document
from data_pipeline.drops import MAX_EXAMPLES, Drops
from data_pipeline.files import new_folder, write_json, writing
from data_pipeline.progress import Progress
from data_pipeline.sampling import first_by_key, key_of

REPORT, DOCUMENTS = "report.json", "documents.jsonl"
NOT_DOCUMENTS = ("_spans", "_lines", "_bytes")  # reasons that count parts of documents, see `Drops`
LARGEST_FRAC = 0.25  # of limit_mib: a larger document would crowd out the rest of a small sample


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON lines; the folder is made."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("wb")
    try:
        for row in rows:
            line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
            with writing(path):
                file.write(line)
    except BaseException:
        with contextlib.suppress(OSError):  # closing writes what is buffered: on a full disk it fails once more
            file.close()
        raise
    with writing(path):
        file.close()


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file that `write_lines` wrote."""
    with path.open("rb") as file:
        yield from map(json.loads, file)


def read_documents(path: Path) -> Iterator[Document]:
    """The documents of a file of them."""
    return (Document(**row) for row in read_lines(path))


def ingest(
    reader: Any, folder: Path, *, source: str, seed: int, limit_mib: int | float | None, work: Path, settings: Any, progress: Progress
) -> None:
    """Read a whole source into `folder`, at most `limit_mib` of it: a sample keyed by `seed`, in the reader's order.

    Raises:
        ValueError: as the reader says; or `limit_mib` is too small for any document.
    """
    drops, groups, n_kept = Drops(), set(), 0

    def rows(documents: Iterable[Document]) -> Iterator[dict[str, Any]]:
        nonlocal n_kept
        for document in documents:
            n_kept += 1
            groups.add(document.group)
            yield document._asdict()

    with new_folder(folder) as partial, progress(f"  reading {source}", unit="documents") as advance:
        documents: Iterable[Document] = watched(reader.documents(source, work=work, drops=drops), advance)
        if limit_mib is not None:
            documents = _limited(documents, limit_mib, seed, source, drops)
        write_lines(partial / DOCUMENTS, rows(documents))
        if not n_kept:
            raise ValueError(f"sources.{source} gave no document ({reasons(drops, source)}); check its fields, and limit_mib if it is set")
        write_json(partial / REPORT, {"settings": settings, "documents": n_kept, "groups": sorted(groups), **drops.as_json()})


def watched(documents: Iterable[Document], advance: Callable[..., None]) -> Iterator[Document]:
    """The documents, each told to a progress bar."""
    for document in documents:
        advance()
        yield document


def _limited(documents: Iterable[Document], limit_mib: int | float, seed: int, source: str, drops: Drops) -> list[Document]:
    limit, n_read = limit_mib * 2**20, 0

    def keyed() -> Iterator[tuple[bytes, int, tuple[int, Document]]]:
        nonlocal n_read
        for document in documents:
            size = len(document.text.encode())
            if size <= limit * LARGEST_FRAC:
                yield key_of(seed, document.path, document.id), size, (n_read, document)
            n_read += 1

    kept = first_by_key(keyed(), limit)
    if len(kept) < n_read:
        drops.add(source, "over_limit_mib", n=n_read - len(kept))
    return [document for _, document in sorted(kept)]


def merged(reports: Iterable[Mapping[str, Any]]) -> Drops:
    """One tally of what the reports of several sources count."""
    drops = Drops()
    for report in reports:
        for source, counts in report["dropped"].items():
            for reason, n in counts.items():
                drops.add(source, reason, n=n)
        for reason, texts in report["examples"].items():
            known = drops.examples.setdefault(reason, [])
            known += texts[: MAX_EXAMPLES - len(known)]
    return drops


def n_documents_in(counts: Mapping[str, int]) -> int:
    """How many documents the reasons of a source count, spans, lines and bytes apart."""
    return sum(n for reason, n in counts.items() if not reason.endswith(NOT_DOCUMENTS))


def reasons(drops: Drops, source: str) -> str:
    """What cost a source most, in words."""
    counts = Counter(drops.counts.get(source, {})).most_common(3)
    return ", ".join(f"{reason}: {n}" for reason, n in counts) or "nothing was dropped"
