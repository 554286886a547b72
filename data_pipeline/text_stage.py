"""What was read → two sides of clean text that share nothing, with the chats and pairs made of each."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_pipeline import corpus
from data_pipeline.clean.held_out import HeldOutFilter, split_groups
from data_pipeline.clean.recipe import run_recipe
from data_pipeline.docstring_chats import DocstringChats
from data_pipeline.document import Document
from data_pipeline.drops import Drops
from data_pipeline.files import new_folder, write_json
from data_pipeline.progress import Progress

TRAIN, HELD_OUT = SIDES = ("train", "held_out")
CHATS = ("chat", "pairs")
Amounts = dict[str, dict[str, int]]  # source → {"documents", "bytes"}


def make_text(
    folder: Path,
    ingested: Mapping[str, Path],
    *,
    recipe: tuple,
    held_out_frac: float,
    held_out_filter: HeldOutFilter,
    chats: DocstringChats,
    seed: int,
    settings: Any,
    progress: Progress,
) -> None:
    """Write `folder`: SIDE/SOURCE.jsonl, the groups set aside, and a report of what was read, kept and dropped.

    Raises:
        ValueError: a source cannot be split, or has nothing left on one side.
    """
    reports = {source: json.loads((path / corpus.REPORT).read_bytes()) for source, path in ingested.items()}
    groups = {source: report["groups"] for source, report in reports.items()}
    read = {source: report["documents"] + corpus.n_documents_in(report["dropped"].get(source, {})) for source, report in reports.items()}
    drops = corpus.merged(reports.values())
    set_aside = split_groups(groups, frac=held_out_frac, seed=seed)
    sides: dict[str, list[Document]] = {TRAIN: [], HELD_OUT: []}
    with progress("  cleaning", sum(report["documents"] for report in reports.values()), unit="documents") as advance:
        for document in run_recipe(recipe, corpus.watched(_held_out_first(ingested, set_aside), advance), drops):
            sides[HELD_OUT if document.group in set_aside else TRAIN].append(document)
    with progress("  separating held-out text"):
        separated = held_out_filter.separate(sides[TRAIN], sides[HELD_OUT], drops)
    with new_folder(folder) as partial, progress("  making chats", 2, unit="sides") as advance:
        kept: dict[str, Amounts] = {}
        for side, documents, index in ((TRAIN, separated.training, separated.index), (HELD_OUT, separated.held_out, None)):
            kept[side] = {source: _write_documents(partial / side, documents, source) for source in ingested}
            _require_all(kept[side], side, drops, held_out_frac)
            for kind, (rows, n_over) in chats.rows(documents, index, seed=seed).items():
                corpus.write_lines(partial / side / f"{kind}.jsonl", rows)
                kept[side][kind] = {"documents": len(rows)}
                read[kind] = read.get(kind, 0) + len(rows) + n_over
                if n_over:
                    drops.add(kind, f"over_n_{kind}", n=n_over)
            advance()
        write_json(partial / "held_out.json", {source: sorted(set_aside & set(names)) for source, names in groups.items()})
        write_json(partial / corpus.REPORT, {"settings": settings, "read": read, "kept": kept, **drops.as_json()})


def _held_out_first(ingested: Mapping[str, Path], set_aside: frozenset[str]) -> Iterator[Document]:
    """All documents, so that of equal ones on both sides the recipe keeps the held-out one."""
    for wanted in (True, False):
        for path in ingested.values():
            yield from (document for document in corpus.read_documents(path / corpus.DOCUMENTS) if (document.group in set_aside) == wanted)


def _write_documents(folder: Path, documents: list[Document], source: str) -> dict[str, int]:
    chosen = [document for document in documents if document.source == source]
    corpus.write_lines(folder / f"{source}.jsonl", (document._asdict() for document in chosen))
    return {"documents": len(chosen), "bytes": sum(len(document.text.encode()) for document in chosen)}


def _require_all(amounts: Amounts, side: str, drops: Drops, held_out_frac: float) -> None:
    for source, amount in amounts.items():
        reasons = corpus.reasons(drops, source)
        if not amount["documents"] and side == TRAIN:
            raise ValueError(f"sources.{source} has no document left to train on ({reasons}); loosen the recipe or add text")
        if not amount["documents"]:
            raise ValueError(f"held_out_frac={held_out_frac} leaves no held-out document of {source} ({reasons}); raise it or add text")
