"""Reports of what the stages dropped, gathered for the account of the whole corpus."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data_pipeline.documents.drops import merged, reasons
from data_pipeline.files import read_json
from data_pipeline.stages.ingest import Ingested
from data_pipeline.stages.text import HELD_OUT, REPORT, TRAIN, Text


def drop_reports(read: list[Ingested]) -> list[dict[str, Any]]:
    """Reports of what reading dropped, one a part; what `limit_mib` leaves out is a reason of its own."""
    reports = [part.report() for part in read]
    for part, report in zip(read, reports, strict=True):
        # The report on the disk does not know the limit, which is applied after reading.
        n_over = report["documents"] - part.n_documents
        if n_over:
            report["dropped"].setdefault(part.source, {})["over_limit_mib"] = n_over
    return reports


def reports_in(folders: Iterable[Path]) -> list[dict[str, Any]]:
    """The reports that a later stage wrote, a folder each."""
    return [read_json(folder / REPORT) for folder in folders]


def require_all(
    texts: list[Text], reports: list[dict[str, Any]], sources: list[str], held_out_frac: float
) -> None:
    """Refuse a corpus in which a source has nothing left.

    Raises:
        ValueError: a source has no document left on one of the sides; it says for what reasons.
    """
    # a side without a single part counts as 0 too
    n_documents = {(source, side): 0 for source in sources for side in (TRAIN, HELD_OUT)}
    for text in texts:
        n_documents[text.source, text.side] += text.documents
    for source in sources:
        # The reasons that drop the most are what the user may loosen.
        why = reasons(merged(reports), source)
        if not n_documents[source, TRAIN]:
            raise ValueError(
                f"sources.{source} has no document left to train on ({why}); loosen the recipe or add text"
            )
        if not n_documents[source, HELD_OUT]:
            raise ValueError(
                f"held_out_frac={held_out_frac} leaves no held-out document of {source} ({why}); "
                "raise it or add text"
            )
