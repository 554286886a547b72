"""A linear classifier over hashed words and pairs of words, small and exact: the same score to the bit on
every machine.

The features are fastText's (Joulin et al. 2017), as in DCLM (Li et al. 2024, 4.4); the weights are those of
a logistic regression.
"""

import functools
import io
import zipfile
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipeline.clean.ngrams import ngrams
from data_pipeline.files import write_bytes

VERSION = 1  # of the classifier that the same texts train
# Single words and pairs, as fastText's wordNgrams=2 in DCLM.
N_WORDS = 2
# 128 KiB as int8: the weights stay in a core's cache, and the file is small enough for the package.
N_BUCKETS = 1 << 17
# Best of 1, 10 and 100 for held-out ROC-AUC on the tweets of `toxicity.md`.
INVERSE_REGULARISATION = 10.0
MAX_WEIGHT = 127  # int8


class LinearClassifier(NamedTuple):
    """logit = bias + scale · Σ weights[bucket of each n-gram] / √(number of n-grams).

    Attributes:
        weights: int8 [buckets], a power of two.
        scale, bias: Of the logit.
    """

    weights: np.ndarray
    scale: float
    bias: float

    def logits(self, texts: list[str]) -> np.ndarray:
        """Log-odds of the positive class, float64 [n]; the bias for a text without words."""
        sums, counts = np.zeros(len(texts)), np.zeros(len(texts))
        for orders in ngrams(texts, N_WORDS):
            for text, hashes in orders:
                if len(text):
                    values = self.weights[bucket(hashes, len(self.weights))]
                    # `text` ascends, so the sums of this chunk are a slice of all.
                    own = slice(text[0], text[-1] + 1)
                    # Sums of integers, so exact in any order.
                    sums[own] += np.bincount(text - text[0], values)
                    counts[own] += np.bincount(text - text[0])
        return self.bias + self.scale * sums / np.sqrt(np.maximum(counts, 1))

    def data(self) -> bytes:
        """The classifier as an .npz file without pickles."""
        buffer = io.BytesIO()
        np.savez(buffer, weights=self.weights, scale_and_bias=np.array([self.scale, self.bias]))
        return buffer.getvalue()

    def fingerprint(self) -> str:
        """Hash of the weights, scale and bias: equal for equal scores."""
        return sha256(self.weights.tobytes() + repr((self.scale, self.bias)).encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Write `path`, replacing it in one step."""
        write_bytes(path, self.data())


def load(path: Path) -> LinearClassifier:
    """Read what `save` wrote.

    Raises:
        ValueError: It is no such file.
    """
    try:
        return _parsed(path.read_bytes())
    except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"model={str(path)!r} is no classifier ({error}); name a file that LinearClassifier.save wrote"
        ) from error


@functools.lru_cache(maxsize=4)  # asked for with every batch
def _parsed(data: bytes) -> LinearClassifier:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        weights, (scale, bias) = arrays["weights"], arrays["scale_and_bias"].tolist()
    if weights.dtype != np.int8 or weights.ndim != 1 or len(weights).bit_count() != 1:
        raise ValueError(
            f"weights {weights.dtype}{list(weights.shape)}, not int8 of a power of two"
        )
    return LinearClassifier(weights, scale, bias)


def train_classifier(positive: Iterable[str], negative: Iterable[str]) -> LinearClassifier:
    """A logistic regression, both classes weighing the same; depends neither on the order of the texts nor
    on repeats.

    Raises:
        ValueError: A class has no text with a word.
    """
    from scipy.sparse import vstack
    from sklearn.linear_model import LogisticRegression  # 1.5 s, and only for training

    classes = {
        "positive": features(sorted(set(positive))),
        "negative": features(sorted(set(negative))),
    }
    for name, rows in classes.items():
        if not rows.nnz:
            raise ValueError(f"{name} has no text with a word in it; give examples of both classes")
    labels = np.repeat([1, 0], [rows.shape[0] for rows in classes.values()])
    # liblinear's dual coordinate descent: one thread, no BLAS, its own generator
    regression = LogisticRegression(
        C=INVERSE_REGULARISATION,
        class_weight="balanced",
        solver="liblinear",
        dual=True,
        random_state=0,
        max_iter=1000,
    )
    regression.fit(vstack(list(classes.values())), labels)
    # Scaled so that the largest weight is 127; `or 1.0` where all are zero.
    weights, scale = regression.coef_[0], float(np.abs(regression.coef_).max()) / MAX_WEIGHT or 1.0
    return LinearClassifier(
        np.rint(weights / scale).astype(np.int8), scale, float(regression.intercept_[0])
    )


def features(texts: list[str]) -> Any:
    """What the weights multiply, a scipy.sparse.csr_matrix [text, bucket]."""
    from scipy.sparse import csr_matrix

    # Duplicate (text, bucket) pairs are added up by the sparse matrix, as a hashed bag of words wants it.
    grams = [order for orders in ngrams(texts, N_WORDS) for order in orders]
    text = np.concatenate([np.zeros(0, np.int64), *(order.text for order in grams)])
    columns = np.concatenate(
        [np.zeros(0, np.int64), *(bucket(order.hashes, N_BUCKETS) for order in grams)]
    )
    values = 1 / np.sqrt(np.maximum(np.bincount(text, minlength=len(texts)), 1))
    return csr_matrix((values[text], (text, columns)), shape=(len(texts), N_BUCKETS))


def bucket(hashes: np.ndarray, n_buckets: int) -> np.ndarray:
    """Which weight each n-gram has, int64; `n_buckets` is a power of two."""
    return (hashes & np.uint64(n_buckets - 1)).astype(np.int64)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probabilities, rounded to six digits: libraries differ in the last bits of an exponential."""
    return np.round(1 / (1 + np.exp(-np.clip(logits, -30, 30))), 6)


def mean_by_text(values: np.ndarray, pieces: list[list[str]]) -> np.ndarray:
    """Of the values of all pieces of all texts, each text's mean weighted by their characters, float32 [n];
    NaN for a text without any.
    """
    owner = np.repeat(np.arange(len(pieces)), [len(part) for part in pieces])
    chars = np.array([len(piece) for part in pieces for piece in part], np.float64)
    sums, totals = (
        np.bincount(owner, weights, minlength=len(pieces)) for weights in (values * chars, chars)
    )
    return np.divide(sums, totals, out=np.full(len(pieces), np.nan), where=totals > 0).astype(
        np.float32
    )
