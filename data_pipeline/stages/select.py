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
from data_pipeline.stages.cuts import Findings, cut, findings_in
from data_pipeline.stages.histograms import count_edits, histograms_of
from data_pipeline.stages.judge import Verdicts
from data_pipeline.stages.text import REPORT, SIDES, Text, write_side

VERSION = 1  # of what this stage makes of the same signals and verdicts
EXAMPLE_CHARS = 1000  # of a dropped document's text: more than a tally of drops shows of it


def select(
    parts: Sequence[Numbered],
    judgement: Judgement,
    folder: Path,
    *,
    engine: Engine,
    advance: Callable[[], None],
) -> list[tuple[Path, list[Text]]]:
    """Write the documents that stay; what was written before is used again.

    Returns:
        Of each part the folder of its report, and the text of its sides.
    """
    # A verdict may depend on any part, so all of them are in the key.
    key = key_of(parts, judgement.recipe, judgement.held_out)
    tasks = []
    for number, part in enumerate(parts):
        # The number tells parts apart: all other things in the key are those of the whole corpus.
        name = settings.digest([VERSION, key, number])
        tasks.append((part, folder / part.annotated.part.source / name))
    missing = [task for task in tasks if not (task[1] / REPORT).exists()]
    for _ in engine.map(partial(_select, judgement), missing):
        advance()
    return [(target, _texts(part, target)) for part, target in tasks]


def _texts(part: Numbered, folder: Path) -> list[Text]:
    """What was written of a part, as its report says."""
    amounts = read_json(folder / REPORT)["sides"]
    ingested = part.annotated.part
    texts = []
    for side in SIDES:
        path = folder / f"{side}.parquet"
        texts.append(Text(side, ingested.source, path, **amounts[side], lineage=ingested.folder))
    return texts


def _select(judgement: Judgement, task: tuple[Numbered, Path]) -> None:
    """Write the sides and the report of one part; a process does it."""
    part, folder = task
    if folder.exists():
        return  # a worker that died had just finished it
    drops = Drops()
    verdicts = judgement.verdicts(part)

    # Both sides pass the same rules; only the group decides the side.
    held_out = part.held_out(judgement.held_out)
    findings = findings_in(part, judgement)
    with new_folder(folder, sealed=True) as partial_folder:
        sides = {}
        for side, on_side in zip(SIDES, (~held_out, held_out), strict=True):
            documents = _selected(part, verdicts, on_side, findings, drops)
            sides[side] = write_side(partial_folder / f"{side}.parquet", documents)
        count_edits(part, verdicts, drops)
        report = {
            "sides": sides,
            "histograms": histograms_of(part, judgement),
            "source": part.annotated.part.source,
            **drops.as_json(),
        }
        write_json(partial_folder / REPORT, report)


def _selected(
    part: Numbered, verdicts: Verdicts, on_side: np.ndarray, findings: Findings, drops: Drops
) -> Iterator[Document]:
    """The documents that stay on one side, without what repeats others; an example of each that goes."""
    path = part.annotated.folder / part.annotated.text
    for row, document in enumerate(corpus.read_documents(path)):
        if not on_side[row]:
            continue
        reason = verdicts.reason[row]
        if reason:
            example = _example(document, verdicts.value[row])
            drops.add(document.source, reason, example, n_bytes=len(document.text.encode()))
            continue
        rest = cut(document, findings.get(row, []), drops)
        if rest is not None:
            yield rest


def _example(document: Document, value: float) -> str:
    measured = "" if np.isnan(value) else f" ({value:.4g})"
    return f"{document.path}{measured}: {document.text[:EXAMPLE_CHARS]}"
