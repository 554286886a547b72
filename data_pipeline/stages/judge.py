"""Which documents stay, and for what reason the others go: limits over signals, rule by rule, with
duplicates found in between.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc

from data_pipeline.clean.identify import is_language
from data_pipeline.clean.rule import UNKNOWN, Limit, Rule
from data_pipeline.stages.annotate import EMPTY, Annotated

STAYS = ""


class Verdicts(NamedTuple):
    """Of every document of a part: why it goes ("" = it stays), and the value that broke the limit."""

    reason: np.ndarray  # object [n]
    value: np.ndarray  # float64 [n]

    def stays(self) -> np.ndarray:
        """Which documents stay, bool [n]."""
        return self.reason == STAYS

    def drop(self, which: np.ndarray, reason: str, value: np.ndarray | float = np.nan) -> None:
        """Give a reason to those of `which` that have none yet: the first rule that drops one is counted."""
        new = which & self.stays()
        self.reason[new] = reason
        # One value for all documents, or one each.
        self.value[new] = np.broadcast_to(value, new.shape)[new]


def judge(
    part: Annotated,
    recipe: Sequence[Rule],
    *,
    languages: np.ndarray,
    duplicates: Mapping[int, np.ndarray],
    quantiles: Mapping[tuple[int, str, str], float],
    before: int | None = None,
) -> Verdicts:
    """The verdicts of the rules numbered below `before` (None = all) on a part's documents.

    Args:
        part: With its signals.
        recipe: All rules.
        languages: Of the documents, [n].
        duplicates: Number of a rule across documents → which documents of this part it drops, bool [n].
        quantiles: (number of the rule, source, reason) → the least value of limits that keep a fraction.
        before: So that a rule across documents compares only those that the ones before it let through.
    """
    n = len(languages)
    verdicts = Verdicts(np.full(n, STAYS, object), np.full(n, np.nan))
    for number in part.rules:
        if before is not None and number >= before:
            break

        # In the order of the recipe: the reason is that of the first rule that drops the document.
        limits = recipe[number].limits()
        signals = part.signals(number, [EMPTY, *dict.fromkeys(limit.signal for limit in limits)])

        # A text that the rule has emptied is dropped for that, whatever its limits say.
        verdicts.drop(signals[EMPTY].to_numpy(), EMPTY)
        for limit in limits:
            value = numbers(signals[limit.signal])
            least = float(quantiles.get((number, part.part.source, limit.reason), limit.least))
            verdicts.drop(breaks(value, least, limit, languages), limit.reason, value)
        if number in duplicates:
            verdicts.drop(duplicates[number], recipe[number].REASON)
    return verdicts


def breaks(value: np.ndarray, least: float, limit: Limit, languages: np.ndarray) -> np.ndarray:
    """Which documents a limit drops, bool [n]."""
    outside = (value < least) | (value > limit.most)  # NaN, what was not measured, is neither
    return outside & concerned(limit, languages)


def concerned(limit: Limit, languages: np.ndarray) -> np.ndarray:
    """Which documents are in the language of a limit, bool [n]."""
    if not limit.language:
        return np.ones(len(languages), bool)
    if limit.language == UNKNOWN:
        return ~is_language(languages)
    return languages == limit.language


def numbers(column: Any) -> np.ndarray:
    """A signal as float64 [n]; missing values are NaN."""
    return pc.cast(column, "float64").to_numpy()
