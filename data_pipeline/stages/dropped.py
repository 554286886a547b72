"""What the stages lost on the way, gathered from their reports."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data_pipeline.documents.drops import merged, reasons
from data_pipeline.files import read_json
from data_pipeline.stages.ingest import Ingested
from data_pipeline.stages.text import HELD_OUT, REPORT, TRAIN, Text


def losses(read: list[Ingested]) -> list[dict[str, Any]]:
    """What reading lost, and what the limit leaves out."""
    reports = [part.report() for part in read]
    for part, report in zip(read, reports, strict=True):
        if over := report["documents"] - part.n_documents:
            report["dropped"].setdefault(part.source, {})["over_limit_mib"] = over
    return reports


def reports_in(folders: Iterable[Path]) -> list[dict[str, Any]]:
    """The reports of parts."""
    return [read_json(folder / REPORT) for folder in folders]


def require_all(
    texts: list[Text], reports: list[dict[str, Any]], sources: list[str], held_out_frac: float
) -> None:
    """Raises ValueError when a source has nothing left on one of the sides."""
    for source in sources:
        left = {
            side: sum(text.documents for text in texts if (text.source, text.side) == (source, side))
            for side in (TRAIN, HELD_OUT)
        }
        why = reasons(merged(reports), source)
        if not left[TRAIN]:
            raise ValueError(
                f"sources.{source} has no document left to train on ({why}); loosen the recipe or add text"
            )
        if not left[HELD_OUT]:
            raise ValueError(
                f"held_out_frac={held_out_frac} leaves no held-out document of {source} ({why}); raise it or add text"
            )
