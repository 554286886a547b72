"""Stage 5b: the two sides made to share no text, see `HeldOutFilter`. What is held out must fit in memory;
what is trained on need not.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from data_pipeline import settings
from data_pipeline.clean.held_out import Found, HeldOutFilter, find, runs_of, without_common, without_held_out
from data_pipeline.clean.overlap import HeldOutIndex, Ngrams
from data_pipeline.documents import corpus
from data_pipeline.documents.document import Document
from data_pipeline.documents.drops import Drops
from data_pipeline.engine.runner import Engine
from data_pipeline.files import new_folder, read_json, write_json
from data_pipeline.stages.text import HELD_OUT, REPORT, TRAIN, Text, write_side

VERSION = 1  # of what this stage makes of the same texts and filter


class Separated(NamedTuple):
    """Text that the sides do not share.

    Attributes:
        texts: Of both sides.
        reports: Of what was cut, a folder each.
        index: Tells whether a text is too close to a held-out one.
    """

    texts: list[Text]
    reports: list[Path]
    index: HeldOutIndex


def separate(
    texts: Sequence[Text],
    held_out_filter: HeldOutFilter,
    folder: Path,
    *,
    engine: Engine,
    advance: Callable[[], None],
) -> Separated:
    """Cut out of the training side what repeats the held-out one; what an interrupted run had done is used
    again.
    """
    key = settings.digest([VERSION, settings.described(held_out_filter), [text.sha256 for text in texts]])
    held_out = [text for text in texts if text.side == HELD_OUT and text.documents]
    training = [text for text in texts if text.side == TRAIN and text.documents]
    documents = [document for text in held_out for document in corpus.read_documents(text.path)]
    index = HeldOutIndex(documents, jaccard=held_out_filter.jaccard)
    targets = [folder / key / f"{place:06}" for place in range(len(training))]
    missing = [task for task in zip(training, targets, strict=True) if not _findings(task[1]).exists()]
    for _ in engine.map(partial(_find, index), missing):
        advance()
    common = held_out_filter.common(found for target in targets for found in _found(target).values())
    kept = _held_out(held_out, common, index, folder / key / HELD_OUT)
    index.dropped |= common
    runs = runs_of(document for text in kept for document in corpus.read_documents(text.path))
    missing = [task for task in zip(training, targets, strict=True) if not task[1].exists()]
    for _ in engine.map(partial(_cut, common, runs), missing):
        advance()
    cut = [_of(target, text) for text, target in zip(training, targets, strict=True)]
    return Separated([*cut, *kept], [*targets, *(text.path.parent for text in kept)], index)


def _findings(target: Path) -> Path:
    return target.with_suffix(".found.json")


def _found(target: Path) -> dict[int, Found]:
    rows = {row: Found(*found) for row, found in read_json(_findings(target))}
    return {
        row: found._replace(spans={int(place): numbers for place, numbers in found.spans.items()})
        for row, found in rows.items()
    }


def _find(index: HeldOutIndex, task: tuple[Text, Path]) -> None:
    text, target = task
    found = ((row, find(document, index)) for row, document in enumerate(corpus.read_documents(text.path)))
    write_json(_findings(target), [[row, each] for row, each in found if each is not None])


def _cut(common: set[int], runs: Ngrams, task: tuple[Text, Path]) -> None:
    text, target = task
    found = _found(target)

    def kept(drops: Drops) -> Iterator[Document]:
        for row, document in enumerate(corpus.read_documents(text.path)):
            if (left := without_held_out(document, found.get(row), common, runs, drops)) is not None:
                yield left

    _write(target, kept)


def _held_out(held_out: Sequence[Text], common: set[int], index: HeldOutIndex, folder: Path) -> list[Text]:
    """The held-out side without what is common language."""
    kept = []
    for place, text in enumerate(held_out):
        target = folder / f"{place:06}"

        def left(drops: Drops, text: Text = text) -> Iterator[Document]:
            for document in corpus.read_documents(text.path):
                if (rest := without_common(document, index, common, drops)) is not None:
                    yield rest

        _write(target, left)
        kept.append(_of(target, text))
    return kept


def _write(target: Path, documents: Callable[[Drops], Iterator[Document]]) -> None:
    if target.exists():
        return
    drops = Drops()
    with new_folder(target) as partial_folder:
        written = write_side(partial_folder / "text.parquet", documents(drops))
        write_json(partial_folder / REPORT, {**written, **drops.as_json()})


def _of(target: Path, text: Text) -> Text:
    report = read_json(target / REPORT)
    return text._replace(
        path=target / "text.parquet", **{name: report[name] for name in ("sha256", "documents", "bytes")}
    )
