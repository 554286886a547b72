"""Stage 2: what every rule of the recipe measures of every document, one file a rule and part, and the text
the rules leave.

Signals are stored under a key of all that they depend on: a new threshold causes no new measurement,
another rule itself alone.
"""

from collections.abc import Callable, Container, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline import settings
from data_pipeline.clean.rule import Rule, Signals
from data_pipeline.documents import corpus
from data_pipeline.documents.document import Document
from data_pipeline.engine.runner import Engine
from data_pipeline.stages.ingest import Ingested

VERSION = 2  # of what this stage makes of the same documents and rules
EMPTY = "empty"  # signal: nothing was left after this rule

PieceNumber = tuple[int, int]  # number of a rule in the recipe, number of its piece


@runtime_checkable
class InPieces(Protocol):
    """A rule that measures several things, each for itself."""

    def pieces(self) -> tuple[Rule, ...]:
        """Rules whose signals together are its own."""
        ...


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
        # All pieces have the same documents in the same order, so their columns can be joined.
        signals, *others = (pq.read_table(self.folder / name) for name in self.rules[number])
        for table in others:
            for name in table.column_names:
                if name != EMPTY:  # each piece has that column; one is enough
                    signals = signals.append_column(name, table[name])
        return signals if names is None else signals.select(names)

    def missing(self) -> dict[PieceNumber, Path]:
        """The files of signals that are not there."""
        files: dict[PieceNumber, Path] = {}
        for number, names in self.rules.items():
            for piece, name in enumerate(names):
                files[number, piece] = self.folder / name
        return {piece: file for piece, file in files.items() if not file.exists()}

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

    # a part may have its signals and lack its text, after a kill between the two
    missing = [part for part in annotated if part.missing() or not part.has_text()]
    for _ in engine.map(partial(_annotate, recipe), missing):
        advance()
    return annotated


def plan(part: Ingested, recipe: tuple[Rule, ...], folder: Path) -> Annotated:
    """The names of a part's files: each a hash of the rule, of what it measures and of the rules that
    rewrite before it.
    """
    # The key of the part is the hash of its documents, not its path: a copy is known again.
    made_by: list[Any] = [VERSION, part.key, settings.library_versions()]
    rules = {}
    for number, rule in enumerate(recipe):
        if part.source not in rule.sources:
            continue

        # late fields are read by the limits alone, and another source does not change this one's signals
        left_out = (*rule.LATE, "sources")
        described = [settings.described(piece, without=left_out) for piece in pieces_of(rule)]
        rules[number] = tuple(
            f"{settings.digest([*made_by, piece])}.parquet" for piece in described
        )

        # The rules after it see another text now.
        if rule.EDITS:
            made_by += described
    text = f"text-{settings.digest(made_by)}.parquet"
    return Annotated(part, folder / part.source / part.key, rules, text)


def pieces_of(rule: Rule) -> tuple[Rule, ...]:
    """The rule as rules that measure its signals one after another, where it has pieces: then a new piece
    measures itself alone.
    """
    return rule.pieces() if isinstance(rule, InPieces) else (rule,)


def _annotate(recipe: tuple[Rule, ...], part: Annotated) -> None:
    """Write what is missing of one part; a process does it."""
    missing = part.missing()
    writes_text = not part.has_text()
    needed = _needed(recipe, part, missing, writes_text)
    measured: dict[PieceNumber, list[Signals]] = {piece: [] for piece in needed}

    def rewritten() -> Iterator[list[Document]]:
        for batch in part.part.batches():
            # In the order of the recipe: a rule measures the text that the editing rules before
            # it left.
            for number, piece in needed.items():
                before = batch
                batch, signals = piece.annotate(batch)
                measured[number].append({**signals, EMPTY: emptied(before, batch)})
            yield batch

    texts = rewritten()
    if writes_text:
        texts = corpus.write_batches(part.folder / part.text, texts, sealed=True)
    for _ in texts:
        pass  # the generators do the work
    for number, path in missing.items():
        _write(path, measured[number])


def _needed(
    recipe: tuple[Rule, ...], part: Annotated, missing: Container[PieceNumber], writes_text: bool
) -> dict[PieceNumber, Rule]:
    """The pieces of rules that must run, in order: those whose signals are missing, and all that edit the
    text which these, or the text file, have to see.
    """
    needed: dict[PieceNumber, Rule] = {}
    last = 0  # how many of `needed` somebody needs
    for number in part.rules:
        for i, piece in enumerate(pieces_of(recipe[number])):
            if piece.EDITS or (number, i) in missing:
                needed[number, i] = piece
            if (number, i) in missing:
                last = len(needed)
    # If the text file exists, edits after the last missing signal are not needed.
    return needed if writes_text else dict(islice(needed.items(), last))


def emptied(before: list[Document], after: list[Document]) -> np.ndarray:
    """Whether a rule left nothing of a text that had something."""
    # A rule that does not edit hands the same list on: nothing to compare.
    if before is after:
        return np.zeros(len(after), bool)
    pairs = zip(before, after, strict=True)
    return np.array([not new.text.strip() and bool(old.text.strip()) for old, new in pairs], bool)


def _write(path: Path, measured: list[Signals]) -> None:
    """The signals of all batches as one file; numbers as they are, several keys a document as lists."""
    # batch by batch, as it was measured: no column of a large part is copied as Python objects
    batches = [
        pa.table({name: _column(values) for name, values in signals.items()})
        for signals in measured
    ]
    corpus.write_table(path, pa.concat_tables(batches))


def _column(values: Any) -> pa.Array:
    if isinstance(values, np.ndarray) and values.ndim == 2:
        # a row a document, of keys: one list of fixed length needs no offsets
        return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    return pa.array(values)
