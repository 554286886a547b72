"""The words of evaluation tasks as sorted keys, and where they occur in texts."""

import functools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from data_pipeline.clean.canonical import Canonical, canonical, chunks
from data_pipeline.clean.units import lines
from data_pipeline.tasks.task import Task

# words: a shorter text occurs by chance, so it must be a line by itself (GPT-3's shortest n-gram: Brown et
# al. 2020, C)
SHORTEST_RUN = 8


class KeySet:
    """Sorted keys; a table of bits, read first, answers nearly all questions of a text that has none of
    them.
    """

    def __init__(self, keys: np.ndarray):
        self.keys = np.unique(keys)
        # The table has at least 16 entries a key, so that a random key passes it with a chance below 1/16.
        self.shift = np.uint64(64 - max(16, len(self.keys).bit_length() + 4))
        self.may_have = np.zeros(1 << (64 - int(self.shift)), bool)
        self.may_have[self.keys >> self.shift] = True

    def having(self, keys: np.ndarray) -> np.ndarray:
        """The places in `keys` of those that are here."""
        # Keys are well mixed, so their high bits are an index into the table.
        place = np.flatnonzero(self.may_have[keys >> self.shift])
        # `clip` below: a key above all others is compared with the last one, and differs.
        nearest = np.searchsorted(self.keys, keys[place])
        return (
            place[self.keys.take(nearest, mode="clip") == keys[place]] if len(self.keys) else place
        )


class Hits(NamedTuple):
    """Stretches of protected words, in the order of the texts.

    Attributes:
        text: Number of the text, int64 [h].
        ngram: Key of the words, uint64 [h].
        start: In characters of the text, int64 [h].
        end: After the last character, int64 [h].
    """

    text: np.ndarray
    ngram: np.ndarray
    start: np.ndarray
    end: np.ndarray

    def where(self, chosen: np.ndarray) -> "Hits":
        """Those of the hits that `chosen` selects."""
        return Hits(*(values[chosen] for values in self))


class Protected(NamedTuple):
    """The keys of all texts of some tasks.

    Attributes:
        runs: Number of words → keys of runs of as many, to be found anywhere.
        lines: Keys of short texts, to be found as lines.
        tasks: All keys of each task.
    """

    runs: dict[int, KeySet]
    lines: KeySet
    tasks: tuple[KeySet, ...]

    def hits(self, texts: Sequence[str]) -> Hits:
        """The places of any of them in the texts."""
        chunk_hits, n = [], 0
        for chunk in chunks(texts):
            chunk_hits.append(self._hits(chunk, n))
            n += len(chunk)
        # So that no texts give empty arrays of the right types instead of an error.
        empty = Hits(*(np.zeros(0, kind) for kind in (np.int64, np.uint64, np.int64, np.int64)))
        return Hits(*(np.concatenate(values) for values in zip(empty, *chunk_hits, strict=True)))

    def _hits(self, texts: Sequence[str], n_before: int) -> Hits:
        words = canonical(texts)
        stretches_by_kind = [
            (first, first + n, key, keys)
            for n, keys in self.runs.items()
            for first, key in [words.runs(n)]
        ]
        if len(self.lines.keys):
            # Short texts count only as lines by themselves: `yes` is in every document.
            units = lines(texts, words)
            stretches_by_kind.append(
                (units.first, units.last, words.keys(units.first, units.last), self.lines)
            )
        columns = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.uint64))]
        for *stretches, wanted in stretches_by_kind:
            place = wanted.having(stretches[2])
            columns.append(tuple(values[place] for values in stretches))
        return placed(
            words, *(np.concatenate(values) for values in zip(*columns, strict=True)), n_before
        )


def placed(
    words: Canonical, first: np.ndarray, last: np.ndarray, ngram: np.ndarray, n_before: int
) -> Hits:
    """Stretches of words `first` to `last` (exclusive), in order and as places in the texts; `n_before`
    texts came before these.
    """
    # By place in the text, whichever length of run found it.
    order = np.lexsort((last, first))
    start, end = words.places(first[order], last[order])
    text = np.searchsorted(words.offsets, start, "right") - 1
    return Hits(
        text + n_before, ngram[order], start - words.offsets[text], end - words.offsets[text]
    )


def protected(tasks: tuple[Task, ...], *, n_words: int) -> Protected:
    """The keys of the tasks; read once a process, and again when a task's file is another."""
    return _protected(tasks, tuple(task.fingerprint() for task in tasks), n_words)


# The fingerprints are part of the cache's key, so a task whose file has changed is read anew.
@functools.lru_cache(maxsize=8)
def _protected(tasks: tuple[Task, ...], fingerprints: tuple[str, ...], n_words: int) -> Protected:
    by_task = [keys_of(task, n_words) for task in tasks]
    runs = {
        n: KeySet(joined(keys[n] for keys in by_task)) for n in sorted(set().union(*by_task) - {0})
    }
    short = KeySet(joined(keys[0] for keys in by_task))
    return Protected(runs, short, tuple(KeySet(joined(keys.values())) for keys in by_task))


def keys_of(task: Task, n_words: int) -> dict[int, np.ndarray]:
    """Number of words → keys of the runs of as many words that protect the task; 0 → those of texts that
    must be a line.
    """
    keys_by_length: dict[int, list[np.ndarray]] = defaultdict(list)
    for chunk in chunks(list(task.texts())):
        words = canonical(chunk)
        keys_by_length[n_words].append(words.runs(n_words)[1])
        first, last = words.first[:-1], words.first[1:]
        n, keys = last - first, words.keys(first, last)
        # A text shorter than a run is looked for whole, by its own length.
        for length in range(min(SHORTEST_RUN, n_words), n_words):
            keys_by_length[length].append(keys[n == length])
        keys_by_length[0].append(keys[(n > 0) & (n < min(SHORTEST_RUN, n_words))])
    return defaultdict(
        lambda: np.zeros(0, np.uint64),
        {length: joined(keys) for length, keys in keys_by_length.items() if len(joined(keys))},
    )


def joined(keys: Iterable[np.ndarray]) -> np.ndarray:
    """One array of them all."""
    return np.concatenate([np.zeros(0, np.uint64), *keys])
