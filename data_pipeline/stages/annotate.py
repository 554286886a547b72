"""Stage 2: what every rule of the recipe measures of every document, one file a rule and part, and the text
the rules leave.

Signals stand beside the documents under a key of all they depend on: another threshold measures nothing,
another rule itself alone.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline import settings
from data_pipeline.clean.rule import Rule, Signals
from data_pipeline.documents import corpus
from data_pipeline.documents.document import Document
from data_pipeline.engine.runner import Engine
from data_pipeline.stages.ingest import Ingested

VERSION = 1  # of what this stage makes of the same documents and rules
EMPTY = "empty"  # signal: nothing was left after this rule


class Annotated(NamedTuple):
    """One part with the files of its rules.

    Attributes:
        part: As it was read.
        folder: Of the files.
        rules: Number in the recipe → file names of its signals, for the rules that look at this source; one
        a piece of the rule.
        text: File name of the documents as the rules left them.
    """

    part: Ingested
    folder: Path
    rules: dict[int, tuple[str, ...]]
    text: str

    def signals(self, number: int, names: Sequence[str] | None = None) -> pa.Table:
        """What a rule measured, a row a document; all of it, or some columns."""
        first, *others = (pq.read_table(self.folder / name) for name in self.rules[number])
        for table in others:
            for name in (name for name in table.column_names if name != EMPTY):
                first = first.append_column(name, table[name])
        return first if names is None else first.select(names)

    def missing(self) -> dict[tuple[int, int], Path]:
        """(number in the recipe, number of the piece) → file, of the signals that are not there."""
        files = {
            (n, place): self.folder / name
            for n, names in self.rules.items()
            for place, name in enumerate(names)
        }
        return {which: file for which, file in files.items() if not file.exists()}

    def has_text(self) -> bool:
        """Whether the documents are there as the rules leave them."""
        return (self.folder / self.text).exists()


def annotate(
    parts: Sequence[Ingested],
    recipe: tuple[Rule, ...],
    folder: Path,
    *,
    engine: Engine,
    advance: Callable[[], None],
) -> list[Annotated]:
    """Measure what was not measured before, of parts that have documents."""
    annotated = [plan(part, recipe, folder) for part in parts]
    missing = [part for part in annotated if part.missing() or not part.has_text()]
    for _ in engine.map(partial(_annotate, recipe), missing):
        advance()
    return annotated


def plan(part: Ingested, recipe: tuple[Rule, ...], folder: Path) -> Annotated:
    """The names of a part's files: each a hash of the rule, of what it measures and of the rules that
    rewrite before it.
    """
    made_by: list[Any] = [VERSION, part.key, settings.library_versions()]
    rules = {}
    for number, rule in enumerate(recipe):
        if part.source not in rule.sources:
            continue
        described = [settings.described(piece, without=(*rule.LATE, "sources")) for piece in pieces_of(rule)]
        rules[number] = tuple(f"{settings.digest([*made_by, piece])}.parquet" for piece in described)
        if rule.EDITS:
            made_by += described
    return Annotated(part, folder / part.source / part.key, rules, f"text-{settings.digest(made_by)}.parquet")


def pieces_of(rule: Rule) -> tuple[Rule, ...]:
    """The rule as rules that measure its signals one after another, where it has pieces: then a new piece
    measures itself alone.
    """
    return rule.pieces() if hasattr(rule, "pieces") else (rule,)


def _annotate(recipe: tuple[Rule, ...], part: Annotated) -> None:
    """One part, whole: the task of a process."""
    wanted, with_text = part.missing(), not part.has_text()
    last = max(part.rules if with_text else (number for number, _ in wanted), default=-1)
    pieces = [
        ((n, place), piece)
        for n in part.rules
        if n <= last
        for place, piece in enumerate(pieces_of(recipe[n]))
    ]
    needed = [(which, piece) for which, piece in pieces if piece.EDITS or which in wanted]
    measured: dict[tuple[int, int], list[Signals]] = {which: [] for which, _ in needed}

    def chained(batch: list[Document]) -> list[Document]:
        for which, piece in needed:
            before, (batch, signals) = batch, piece.annotate(batch)
            measured[which].append({**signals, EMPTY: emptied(before, batch)})
        return batch

    texts = map(chained, part.part.batches())
    for _ in corpus.write_batches(part.folder / part.text, texts) if with_text else texts:
        pass
    for which, path in wanted.items():
        _write(path, measured[which])


def emptied(before: list[Document], after: list[Document]) -> np.ndarray:
    """Whether a rule left nothing of a text that had something."""
    if before is after:
        return np.zeros(len(after), bool)
    return np.array(
        [not new.text.strip() and bool(old.text.strip()) for old, new in zip(before, after, strict=True)],
        bool,
    )


def _write(path: Path, measured: list[Signals]) -> None:
    """The signals of all batches as one file; numbers as they are, several keys a document as lists."""
    batches = [pa.table({name: _column(values) for name, values in signals.items()}) for signals in measured]
    corpus.write_table(path, pa.concat_tables(batches))


def _column(values: Any) -> pa.Array:
    if isinstance(values, np.ndarray) and values.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    return pa.array(values)
