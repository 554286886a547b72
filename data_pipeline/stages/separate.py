"""Stage 5b: the two sides made to share no text, see `HeldOutFilter`. What is held out must fit in memory;
what is trained on need not.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from data_pipeline import settings
from data_pipeline.clean.held_out import (
    Found,
    HeldOutFilter,
    find,
    runs_of,
    without_common,
    without_held_out,
)
from data_pipeline.clean.overlap import HeldOutIndex, Ngrams
from data_pipeline.documents import corpus
from data_pipeline.documents.document import Document
from data_pipeline.documents.drops import Drops
from data_pipeline.engine.runner import Engine
from data_pipeline.files import new_folder, read_json, write_json
from data_pipeline.stages.text import HELD_OUT, REPORT, TRAIN, Text, write_side

VERSION = 1  # of what this stage makes of the same texts and filter
TEXT = "text.parquet"
Task = tuple[Text, Path]  # a training text, and the folder of what is left of it


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
    # All texts are in the key, because another one on either side may change any cut.
    described = settings.described(held_out_filter)
    key = settings.digest([VERSION, described, [text.sha256 for text in texts]])
    held_out = [text for text in texts if text.side == HELD_OUT and text.documents]
    training = [text for text in texts if text.side == TRAIN and text.documents]
    # Numbered in the order of texts, which the key fixes.
    tasks = [(text, folder / key / f"{number:06}") for number, text in enumerate(training)]

    # Every process gets a copy, so what is held out must fit in memory.
    index = HeldOutIndex(_documents(held_out), jaccard=held_out_filter.jaccard)
    for _ in engine.map(
        partial(_find, index), [task for task in tasks if not _findings(task[1]).exists()]
    ):
        advance()

    # First find, then cut: which texts are common is known only when all training text is searched.
    all_found = (found for _, target in tasks for found in _found(target).values())
    common = held_out_filter.common(all_found)
    left_held_out = _cut_held_out(held_out, common, index, folder / key / HELD_OUT)

    # Common language is no longer held out, so chats may repeat it.
    index.dropped |= common
    runs = runs_of(_documents(left_held_out))
    for _ in engine.map(
        partial(_cut, common, runs), [task for task in tasks if not task[1].exists()]
    ):
        advance()
    left_training = [_text_in(target, text) for text, target in tasks]
    reports = [*(target for _, target in tasks), *(text.path.parent for text in left_held_out)]
    return Separated([*left_training, *left_held_out], reports, index)


def _documents(texts: Sequence[Text]) -> Iterator[Document]:
    for text in texts:
        yield from corpus.read_documents(text.path)


def _findings(target: Path) -> Path:
    return target.with_suffix(".found.json")


def _found(target: Path) -> dict[int, Found]:
    """Row of a document → what it repeats, as `_find` wrote it."""
    found_in = {}
    for row, values in read_json(_findings(target)):
        found = Found(*values)

        # JSON has made strings of the numbers of spans.
        spans = {int(span): numbers for span, numbers in found.spans.items()}
        found_in[row] = found._replace(spans=spans)
    return found_in


def _find(index: HeldOutIndex, task: Task) -> None:
    """Write what the documents of a text repeat; a process does it."""
    text, target = task

    # only documents that repeat something: most have no row
    rows = []
    for row, document in enumerate(corpus.read_documents(text.path)):
        found = find(document, index)
        if found is not None:
            rows.append([row, found])
    write_json(_findings(target), rows, sealed=True)


def _cut(common: set[int], runs: Ngrams, task: Task) -> None:
    """Write a training text without what it repeats; a process does it."""
    text, target = task
    found = _found(target)

    def left(drops: Drops) -> Iterator[Document]:
        for row, document in enumerate(corpus.read_documents(text.path)):
            rest = without_held_out(document, found.get(row), common, runs, drops)
            if rest is not None:
                yield rest

    _write(target, left)


def _cut_held_out(
    texts: Sequence[Text], common: set[int], index: HeldOutIndex, folder: Path
) -> list[Text]:
    """The held-out side without what is common language."""
    left_texts = []
    for number, text in enumerate(texts):
        target = folder / f"{number:06}"

        # `text` as a default: a closure reads the loop's variable only when it is drawn from.
        def left(drops: Drops, text: Text = text) -> Iterator[Document]:
            for document in corpus.read_documents(text.path):
                rest = without_common(document, index, common, drops)
                if rest is not None:
                    yield rest

        _write(target, left)
        left_texts.append(_text_in(target, text))
    return left_texts


def _write(target: Path, documents: Callable[[Drops], Iterator[Document]]) -> None:
    """Write documents and the report of what was cut; nothing where that was done before."""
    # a folder takes its name when it is whole
    if target.exists():
        return
    drops = Drops()
    with new_folder(target, sealed=True) as partial_folder:
        written = write_side(partial_folder / TEXT, documents(drops))
        write_json(partial_folder / REPORT, {**written, **drops.as_json()})


def _text_in(target: Path, text: Text) -> Text:
    """What is left of a text, as its report says."""
    # The lineage stays, because it is the same part of the raw input.
    report = read_json(target / REPORT)
    amounts = {name: report[name] for name in ("sha256", "documents", "bytes")}
    return text._replace(path=target / TEXT, **amounts)
