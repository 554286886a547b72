"""Stage 5: the documents that every rule lets through, on their two sides, and the account of those it does
not.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from data_pipeline import settings
from data_pipeline.documents import corpus
from data_pipeline.documents.document import Document
from data_pipeline.documents.drops import Drops
from data_pipeline.engine.runner import Engine
from data_pipeline.files import new_folder, read_json, write_json
from data_pipeline.stages.across import Judgement, Numbered, key_of
from data_pipeline.stages.cuts import Found, cut, found_in
from data_pipeline.stages.histograms import count_edits, histograms_of
from data_pipeline.stages.judge import Verdicts
from data_pipeline.stages.text import REPORT, SIDES, Text, write_side

VERSION = 1  # of what this stage makes of the same signals and verdicts


def select(
    parts: Sequence[Numbered],
    judgement: Judgement,
    folder: Path,
    *,
    engine: Engine,
    advance: Callable[[], None],
) -> list[tuple[Path, list[Text]]]:
    """Of each part: the folder of its report, and the text of its sides."""
    whole = key_of(parts, judgement.recipe, judgement.held_out)
    folders = [
        folder / part.annotated.part.source / settings.digest([VERSION, whole, place])
        for place, part in enumerate(parts)
    ]
    missing = [
        (part, target) for part, target in zip(parts, folders, strict=True) if not (target / REPORT).exists()
    ]
    for _ in engine.map(partial(_select, judgement), missing):
        advance()
    return [(target, _texts(part, target)) for part, target in zip(parts, folders, strict=True)]


def _texts(part: Numbered, folder: Path) -> list[Text]:
    sides = read_json(folder / REPORT)["sides"]
    ingested = part.annotated.part
    return [
        Text(side, ingested.source, folder / f"{side}.parquet", **sides[side], lineage=ingested.folder)
        for side in SIDES
    ]


def _select(judgement: Judgement, task: tuple[Numbered, Path]) -> None:
    """One part, whole: the task of a process."""
    part, folder = task
    if folder.exists():
        return
    source, drops = part.annotated.part.source, Drops()
    verdicts = judgement.verdicts(part)
    held_out = part.held_out(judgement.held_out)
    found = found_in(part, judgement)
    with new_folder(folder) as partial_folder:
        sides = {}
        for side, wanted in zip(SIDES, (~held_out, held_out), strict=True):
            documents = _kept(part, verdicts, wanted, found, drops)
            sides[side] = write_side(partial_folder / f"{side}.parquet", documents)
        count_edits(part, verdicts, drops)
        report = {
            "sides": sides,
            "histograms": histograms_of(part, judgement),
            "source": source,
            **drops.as_json(),
        }
        write_json(partial_folder / REPORT, report)


def _kept(
    part: Numbered, verdicts: Verdicts, wanted: np.ndarray, found: Found, drops: Drops
) -> Iterator[Document]:
    """The documents that stay on one side, without what repeats others; an example of each that goes."""
    row, path = 0, part.annotated.folder / part.annotated.text
    for batch in corpus.read_batches(path):
        for number, document in enumerate(batch, row):
            if wanted[number] and verdicts.reason[number]:
                example = _example(document, verdicts.value[number])
                drops.add(
                    document.source, verdicts.reason[number], example, n_bytes=len(document.text.encode())
                )
            elif wanted[number] and (kept := cut(document, found.get(number, []), drops)) is not None:
                yield kept
        row += len(batch)


def _example(document: Document, value: float) -> str:
    measured = "" if np.isnan(value) else f" ({value:.4g})"
    return f"{document.path}{measured}: {document.text[:1000]}"
