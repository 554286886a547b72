"""py3langid's language identifier over many texts at once: the same answer for each, several times faster.

The library walks an automaton byte by byte in Python. Here all texts take a step together, as one array
operation; scores are then those of its formula (naive Bayes over the features met, softmax at temperature
√bytes).
"""

import functools
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from data_pipeline.clean.languages import LANGUAGES


class Model(NamedTuple):
    """py3langid's tables as arrays: `next_state[row[state] + byte]`, `feature[state]` (-1 = none),
    log-likelihoods [feature, class].
    """

    next_state: np.ndarray
    row: np.ndarray
    feature: np.ndarray
    likelihood: np.ndarray
    prior: np.ndarray
    labels: list[str]  # a language written in two scripts is there twice
    alias: list[int]  # index of the first class with the same label


@functools.cache
def model() -> Model:
    """The model that comes with the package (5 MB)."""
    # Half a second, so it is imported only when a recipe runs.
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    # Its tables are read through attributes of the class, which the pinned version has; a test compares
    # answers.
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    labels = list(identifier.nb_classes)
    next_state, row = (
        np.asarray(identifier.tk_nextmove),
        np.asarray(identifier.tk_row, np.int64) << 8,
    )
    feature = np.asarray(identifier.tk_output, np.int32)
    return Model(
        next_state,
        row,
        feature,
        identifier.nb_ptc.astype(np.float32),
        identifier.nb_pc,
        labels,
        [labels.index(label) for label in labels],
    )


def is_language(names: Iterable[str]) -> np.ndarray:
    """Which of the names that documents have are languages' (ISO 639-1), bool [n]."""
    names = list(names)
    # The names of the table first: for those of ordinary corpora no model is opened.
    known = set(LANGUAGES)
    if not known.issuperset(filter(None, names)):
        known.update(model().labels)
    return np.array([name in known for name in names], bool)


def probabilities(texts: list[str]) -> np.ndarray:
    """Of each text and label, float32 [n, n_labels]; a label that stands twice has its sum at the first."""
    result = np.zeros((len(texts), len(model().labels)), np.float32)
    encoded = [encode(text) for text in texts]
    for number, (features, counts) in enumerate(features_of(encoded)):
        scores = (
            np.log1p(counts.astype(np.float32)) @ model().likelihood[features] + model().prior
            if len(features)
            else result[number]
        )
        scores = scores * np.float32(1 / np.sqrt(len(encoded[number]) or 1))
        weights = np.exp(scores - scores.max())
        np.add.at(result[number], model().alias, weights / weights.sum())
    return result


def classify(texts: list[str]) -> list[tuple[str, float]]:
    """The most probable language of each text and its probability."""
    scores = probabilities(texts)
    best = scores.argmax(1)
    return [
        (model().labels[label], float(scores[number, label])) for number, label in enumerate(best)
    ]


def encode(text: str) -> bytes:
    """The bytes that the library looks at."""
    return unicodedata.normalize("NFC", text.lower() if text.isupper() else text).encode(
        errors="surrogatepass"
    )


def features_of(texts: list[bytes]) -> list[tuple[np.ndarray, np.ndarray]]:
    """The features met in each text, with how often."""
    order = sorted(range(len(texts)), key=lambda number: -len(texts[number]))
    lengths = np.array([len(texts[number]) for number in order], np.int64)
    n_steps = int(lengths[0]) if len(lengths) else 0
    letters = np.zeros((n_steps, len(texts)), np.uint8)
    for column, number in enumerate(order):
        letters[: lengths[column], column] = np.frombuffer(texts[number], np.uint8)
    met = np.full((n_steps, len(texts)), -1, np.int32)
    state = np.zeros(len(texts), np.int64)
    # Texts are in order of length, so those longer than step i are the first active[i].
    active = np.searchsorted(-lengths, -np.arange(n_steps))
    next_state, row, feature = model()[:3]
    for step, n in enumerate(active):
        state = next_state.take(row.take(state[:n]) + letters[step, :n])
        met[step, :n] = feature.take(state)
    counted = [(np.zeros(0, np.int64),) * 2] * len(texts)
    for column, number in enumerate(order):
        features = met[: lengths[column], column]
        counted[number] = np.unique(features[features >= 0], return_counts=True)
    return counted
