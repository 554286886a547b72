"""The words of evaluation tasks as sorted keys, and where they occur in texts."""

import functools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from data_pipeline.clean.canonical import Canonical, canonical, chunks
from data_pipeline.clean.units import lines
from data_pipeline.tasks.task import Task

# A run that more texts of a task share is their common preamble, and tells no text from another.
MAX_TEXTS = 20
# Of the words of a text: who holds so much of it holds the text, a word changed or left out here and there.
HELD_FRAC = 0.8
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


class TextRuns(NamedTuple):
    """Which runs of words each text of a task consists of, sorted by key.

    Attributes:
        keys: Of the runs, uint64 [r].
        text: Number of the text that has it, int64 [r].
        position: Of its first word in that text, int64 [r].
        width: Words of the run, int64 [r].
        n_words: Words of each text that its runs cover, int64 [n texts].
    """

    keys: np.ndarray
    text: np.ndarray
    position: np.ndarray
    width: np.ndarray
    n_words: np.ndarray

    def held(self, hits: Hits) -> np.ndarray:
        """Whether each hit is a piece of a text that its document holds (nearly) whole, bool [h]."""
        # A key may be of several texts: every hit is paired with each of them.
        first = np.searchsorted(self.keys, hits.ngram, "left")
        n_texts = np.searchsorted(self.keys, hits.ngram, "right") - first
        hit = np.repeat(np.arange(len(first)), n_texts)
        run = np.arange(len(hit)) - np.repeat(np.cumsum(n_texts) - n_texts, n_texts) + first[hit]
        order = np.lexsort((self.position[run], self.text[run], hits.text[hit]))
        hit, run = hit[order], run[order]

        # One group is one text in one document.
        is_first = np.ones(len(hit), bool)
        text, document = self.text[run], hits.text[hit]
        is_first[1:] = (text[1:] != text[:-1]) | (document[1:] != document[:-1])
        group = np.cumsum(is_first) - 1
        n_covered = covered(self.position[run], self.width[run], group)
        whole = n_covered >= HELD_FRAC * self.n_words[text[is_first]]
        held = np.zeros(len(first), bool)
        held[hit[whole[group]]] = True
        return held


def covered(position: np.ndarray, width: np.ndarray, group: np.ndarray) -> np.ndarray:
    """How many words the runs of each group cover together; runs stand in the order of group and position,
    int64 [n groups].
    """
    gap = np.full(len(position), np.iinfo(np.int64).max)
    # The last run of a group counts with its whole width: no other overlaps its end.
    same = group[1:] == group[:-1]
    gap[:-1][same] = (position[1:] - position[:-1])[same]
    n_groups = int(group[-1]) + 1 if len(group) else 0
    return np.bincount(group, weights=np.minimum(gap, width), minlength=n_groups).astype(np.int64)


class Protected(NamedTuple):
    """The keys of all texts of some tasks.

    Attributes:
        runs: Number of words → keys of runs of as many, to be found anywhere.
        lines: Keys of short texts, to be found as lines.
        tasks: All keys of each task.
        texts: The runs of each text of each task.
    """

    runs: dict[int, KeySet]
    lines: KeySet
    tasks: tuple[KeySet, ...]
    texts: tuple[TextRuns, ...]

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
    texts = tuple(runs_of_texts(task, n_words) for task in tasks)
    return Protected(runs, short, tuple(KeySet(joined(keys.values())) for keys in by_task), texts)


def runs_of_texts(task: Task, n_words: int) -> TextRuns:
    """The runs of each text of a task that has at least SHORTEST_RUN words."""
    columns = [(np.zeros(0, np.uint64), *(np.zeros(0, np.int64) for _ in range(3)))]
    n_before = 0
    for chunk in chunks(list(task.texts())):
        words = canonical(chunk)
        first, keys = words.runs(n_words)
        text = np.searchsorted(words.first, first, "right") - 1
        columns.append(
            (keys, text + n_before, first - words.first[text], np.full(len(first), n_words))
        )
        # A text shorter than a run is one run of its own.
        n = np.diff(words.first)
        short = np.flatnonzero((n >= min(SHORTEST_RUN, n_words)) & (n < n_words))
        keys = words.keys(words.first[short], words.first[short + 1])
        columns.append((keys, short + n_before, np.zeros(len(short), np.int64), n[short]))
        n_before += len(chunk)
    keys, text, position, width = map(np.concatenate, zip(*columns, strict=True))
    _, kind, n_texts = np.unique(keys, return_inverse=True, return_counts=True)
    own = n_texts[kind] <= MAX_TEXTS if len(keys) else np.zeros(0, bool)
    keys, text, position, width = keys[own], text[own], position[own], width[own]

    # Words of shared preambles are not counted: whoever holds the rest of a text holds it.
    order = np.lexsort((position, text))
    n_covered = covered(position[order], width[order], text[order])
    n_words_of = np.zeros(n_before, np.int64)
    n_words_of[: len(n_covered)] = n_covered
    order = np.argsort(keys, kind="stable")
    return TextRuns(keys[order], text[order], position[order], width[order], n_words_of)


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
