"""Stage 3: what only the whole corpus can tell, which documents and lines repeat others, each rule among
what the ones before it left.
"""

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline import settings
from data_pipeline.clean.rule import AcrossRule, Limit, Rule
from data_pipeline.documents import corpus
from data_pipeline.engine.runner import Engine
from data_pipeline.files import new_folder
from data_pipeline.stages.annotate import EMPTY, Annotated
from data_pipeline.stages.judge import Verdicts, judge, numbers

VERSION = 1  # of what this stage makes of the same signals and rules
FOUND = "found.parquet"
# Added to the numbers of training documents, so that of equal documents the held-out one stays.
TRAINING = 1 << 48
QuantileKey = tuple[int, str, str]  # number of the rule, source, reason


class Numbered(NamedTuple):
    """A part whose documents have the numbers first, first + 1, …, with what all stages after the second
    must know of it.
    """

    annotated: Annotated
    first: int

    def held_out(self, groups: frozenset[str]) -> np.ndarray:
        """Which documents are set aside, bool [n]."""
        # one column of the file: the texts are not read
        names = self._column("group")
        return np.fromiter((name in groups for name in names), bool, len(names))

    def languages(self) -> np.ndarray:
        """The language of each document, as the reader said or a rule found it; object [n]."""
        return np.array(self._column("language"), object)

    def _column(self, name: str) -> list[str]:
        path = self.annotated.folder / self.annotated.text
        return pq.read_table(path, columns=[name])[name].to_pylist()


class Judgement(NamedTuple):
    """What it takes to judge a part.

    Attributes:
        recipe: All rules.
        held_out: Groups set aside.
        quantiles: The least values of limits that keep a fraction.
        found: Number of a rule across documents → the file of its verdicts.
    """

    recipe: tuple[Rule, ...]
    held_out: frozenset[str]
    quantiles: dict[QuantileKey, float]
    found: dict[int, Path]

    def verdicts(self, part: Numbered, *, before: int | None = None) -> Verdicts:
        """The verdicts on a part's documents, of the rules numbered below `before` (None = all)."""
        numbers_of = self.numbers(part)

        # verdicts are of all parts; this one's are picked out by its numbers
        duplicates = {}
        for number, path in self.found.items():
            if number in part.annotated.rules:
                dropped = self.recipe[number].dropped(columns(repeated(path, numbers_of)))
                duplicates[number] = np.isin(numbers_of, dropped)
        return judge(
            part.annotated,
            self.recipe,
            languages=part.languages(),
            duplicates=duplicates,
            quantiles=self.quantiles,
            before=before,
        )

    def numbers(self, part: Numbered) -> np.ndarray:
        """The documents' numbers, int64 [n]: lower is preferred."""
        held_out = part.held_out(self.held_out)

        # Held-out documents have the lower numbers, so that of equal documents they stay.
        return part.first + np.arange(len(held_out)) + np.where(held_out, 0, TRAINING)


def repeated(path: Path, numbers_of: np.ndarray) -> pa.Table:
    """The verdicts on the documents of one part, which have these numbers."""
    if not len(numbers_of):
        return pq.read_table(path).slice(0, 0)

    # A part's numbers are a run, and the same run after TRAINING; Parquet skips other row groups.
    first = int((numbers_of % TRAINING).min())

    # Both runs, because a part has documents of both sides.
    filters = []
    for start in (first, first + TRAINING):
        filters.append([("document", ">=", start), ("document", "<", start + len(numbers_of))])
    return pq.read_table(path, filters=filters)


def columns(table: pa.Table) -> dict[str, np.ndarray]:
    """Name → values of a table of numbers."""
    return {name: table[name].to_numpy() for name in table.column_names}


def numbered(parts: Sequence[Annotated]) -> list[Numbered]:
    """The parts with the numbers of their documents."""
    firsts = np.cumsum([0, *(part.part.n_documents for part in parts)])
    return [Numbered(part, int(first)) for part, first in zip(parts, firsts, strict=False)]


def find(
    parts: Sequence[Numbered],
    recipe: tuple[Rule, ...],
    held_out: frozenset[str],
    folder: Path,
    *,
    engine: Engine,
    advance: Callable[[], None],
) -> Judgement:
    """Resolve the limits that keep a fraction and the rules across documents, in their order; what was
    found before is used again.
    """
    judgement = Judgement(recipe, held_out, _quantiles(parts, recipe), {})
    for number, rule in enumerate(recipe):
        if isinstance(rule, AcrossRule):
            target = folder / f"{number}-{key_of(parts, recipe[: number + 1], held_out)}"
            if not target.exists():
                _find(parts, judgement, number, target, engine)
                advance()
            # the next rule across documents sees only what this one leaves
            judgement.found[number] = target / FOUND
    return judgement


def key_of(parts: Sequence[Numbered], recipe: Sequence[Rule], held_out: frozenset[str]) -> str:
    """Of all that the verdicts of these rules depend on."""
    files = []
    for part in parts:
        annotated = part.annotated
        files.append([annotated.part.source, annotated.text, list(annotated.rules.values())])
    described = [settings.described(rule) for rule in recipe]
    return settings.digest([VERSION, files, described, sorted(held_out)])


def _find(
    parts: Sequence[Numbered], judgement: Judgement, number: int, target: Path, engine: Engine
) -> None:
    """Write the verdicts of one rule across documents."""
    # beside the target: after a kill, the parts whose keys are written are not judged again
    folder = target.with_name(f"{target.name}.keys")
    tasks = []
    for i, part in enumerate(parts):
        if number in part.annotated.rules:
            tasks.append((part, folder / f"{i:06}.parquet"))
    for _ in engine.map(partial(_write_keys, judgement, number), tasks):
        pass
    with new_folder(target, sealed=True) as partial_folder:
        judgement.recipe[number].resolve([path for _, path in tasks], partial_folder / FOUND)
    # Only now: after a kill the keys that are there are used again.
    shutil.rmtree(folder)


def _write_keys(judgement: Judgement, number: int, task: tuple[Numbered, Path]) -> None:
    """Write the numbers and keys of a part's documents that are still there when rule `number` begins; a
    process does it.
    """
    part, path = task
    if path.exists():
        return
    signals = part.annotated.signals(number)
    stays = judgement.verdicts(part, before=number).stays() & ~signals[EMPTY].to_numpy()

    # Without EMPTY, only the keys of the rule are left.
    keys = signals.drop_columns([EMPTY]).append_column(
        "document", pa.array(judgement.numbers(part))
    )
    corpus.write_table(path, keys.filter(pa.array(stays)))


def _quantiles(parts: Sequence[Numbered], recipe: tuple[Rule, ...]) -> dict[QuantileKey, float]:
    """The least value of every limit that keeps a fraction of a source: over all its documents that were
    measured.
    """
    quantiles = {}
    for number, rule in enumerate(recipe):
        for limit in rule.limits():
            if limit.quantile is None:
                continue
            for source in rule.sources:
                measured = _measured(parts, number, source, limit)
                if measured.size:
                    # "lower" is a value that some document has: no rounding between two of them
                    least = np.quantile(measured, limit.quantile, method="lower")
                    quantiles[number, source, limit.reason] = float(least)
    return quantiles


def _measured(parts: Sequence[Numbered], number: int, source: str, limit: Limit) -> np.ndarray:
    """The values of a limit's signal over a source, those apart that are NaN; float64 [n]."""
    values = [np.zeros(0)]
    for part in parts:
        if part.annotated.part.source == source:
            values.append(numbers(part.annotated.signals(number, [limit.signal])[limit.signal]))
    of_source = np.concatenate(values)
    # NaN means not measured, and would make the quantile NaN.
    return of_source[~np.isnan(of_source)]
