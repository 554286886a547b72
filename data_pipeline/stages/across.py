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
from data_pipeline.clean.rule import AcrossRule, Rule
from data_pipeline.documents import corpus
from data_pipeline.engine.runner import Engine
from data_pipeline.files import new_folder
from data_pipeline.stages.annotate import EMPTY, Annotated
from data_pipeline.stages.judge import Verdicts, judge, numbers

VERSION = 1  # of what this stage makes of the same signals and rules
FOUND = "found.parquet"
TRAINING = 1 << 48  # added to the number of a document that is trained on: of equal ones the held-out stays


class Numbered(NamedTuple):
    """A part whose documents have the numbers first, first + 1, …, with what all stages after the second
    must know of it.
    """

    annotated: Annotated
    first: int

    def held_out(self, groups: frozenset[str]) -> np.ndarray:
        """Which documents are set aside, bool [n]."""
        names = self._column("group")
        return np.fromiter((name in groups for name in names), bool, len(names))

    def languages(self) -> np.ndarray:
        """Of the documents, [n]."""
        return np.array(self._column("language"), object)

    def _column(self, name: str) -> list[str]:
        return pq.read_table(self.annotated.folder / self.annotated.text, columns=[name])[name].to_pylist()


class Judgement(NamedTuple):
    """What it takes to judge a part.

    Attributes:
        recipe: All rules.
        held_out: Groups set aside.
        quantiles: Limits that keep a fraction, resolved: (number of the rule, source, reason) → least value.
        found: Number of a rule across documents → the file of what it found.
    """

    recipe: tuple[Rule, ...]
    held_out: frozenset[str]
    quantiles: dict[tuple[int, str, str], float]
    found: dict[int, Path]

    def verdicts(self, part: Numbered, *, before: int | None = None) -> Verdicts:
        """The verdicts on a part's documents, of the rules numbered below `before` (None = all)."""
        numbers_of = self.numbers(part)
        duplicates = {
            number: np.isin(numbers_of, self.recipe[number].dropped(columns(repeated(path, numbers_of))))
            for number, path in self.found.items()
            if number in part.annotated.rules
        }
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
        return part.first + np.arange(len(held_out)) + np.where(held_out, 0, TRAINING)


def repeated(path: Path, numbers_of: np.ndarray) -> pa.Table:
    """The verdicts on the documents of one part, which have these numbers."""
    if not len(numbers_of):
        return pq.read_table(path).slice(0, 0)
    first = int((numbers_of % TRAINING).min())
    ends = [(first + shift, first + shift + len(numbers_of)) for shift in (0, TRAINING)]
    return pq.read_table(
        path, filters=[[("document", ">=", start), ("document", "<", end)] for start, end in ends]
    )


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
            judgement.found[number] = target / FOUND
    return judgement


def key_of(parts: Sequence[Numbered], recipe: Sequence[Rule], held_out: frozenset[str]) -> str:
    """Of all that the verdicts of these rules depend on."""
    files = [
        [part.annotated.part.source, part.annotated.text, list(part.annotated.rules.values())]
        for part in parts
    ]
    return settings.digest([VERSION, files, [settings.described(rule) for rule in recipe], sorted(held_out)])


def _find(parts: Sequence[Numbered], judgement: Judgement, number: int, target: Path, engine: Engine) -> None:
    keys = target.with_name(f"{target.name}.keys")
    tasks = [(place, part) for place, part in enumerate(parts) if number in part.annotated.rules]
    for _ in engine.map(partial(_write_keys, judgement, number, keys), tasks):
        pass
    with new_folder(target) as partial_folder:
        judgement.recipe[number].resolve(
            [keys / f"{place:06}.parquet" for place, _ in tasks], partial_folder / FOUND
        )
    shutil.rmtree(keys)


def _write_keys(judgement: Judgement, number: int, keys: Path, task: tuple[int, Numbered]) -> None:
    """The numbers and keys of a part's documents that are still there when rule `number` begins."""
    place, part = task
    path = keys / f"{place:06}.parquet"
    if path.exists():
        return
    kept = judgement.verdicts(part, before=number).kept()
    signals = part.annotated.signals(number)
    kept &= ~signals[EMPTY].to_numpy()
    table = (
        signals.drop_columns([EMPTY])
        .append_column("document", pa.array(judgement.numbers(part)))
        .filter(pa.array(kept))
    )
    corpus.write_table(path, table)


def _quantiles(parts: Sequence[Numbered], recipe: tuple[Rule, ...]) -> dict[tuple[int, str, str], float]:
    """The least value of every limit that keeps a fraction of a source: over all its documents that were
    measured.
    """
    found = {}
    for number, rule in enumerate(recipe):
        for limit in (limit for limit in rule.limits() if limit.quantile is not None):
            for source in rule.sources:
                of_source = [part.annotated for part in parts if part.annotated.part.source == source]
                values = np.concatenate(
                    [numbers(part.signals(number, [limit.signal])[limit.signal]) for part in of_source]
                    or [[]]
                )
                if (measured := values[~np.isnan(values)]).size:
                    found[number, source, limit.reason] = float(
                        np.quantile(measured, limit.quantile, method="lower")
                    )
    return found
