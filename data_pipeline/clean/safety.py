"""Text that a model should not learn to write: words of a blocklist, and toxic sentences by a small trained
classifier.
"""

import csv
import html
import os
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import BaseModel

from data_pipeline.clean.classifier import (
    LinearClassifier,
    load,
    mean_by_text,
    sigmoid,
    train_classifier,
)
from data_pipeline.clean.lists import user_list
from data_pipeline.clean.ngrams import ngrams
from data_pipeline.clean.rule import Limit, Signals
from data_pipeline.component import FrozenMap
from data_pipeline.documents.document import Document

SENTENCE_END = re.compile(r"(?<=[.!?…])\s+|\n+")
# toxicity.md has its data, licence and figures.
TOXICITY_MODEL = Path(__file__).with_name("toxicity.npz")
# Marks of a tweet, which tell nothing about toxicity.
MEDIUM = re.compile(r"https?://\S+|@\w+|\bRT\b|#")


class Blocklist(BaseModel, frozen=True, extra="forbid", strict=True):
    """Counts words and phrases of the user's lists, whatever their case and the punctuation between them;
    whole words only.

    Attributes:
        sources: The sources it applies to.
        files: Language, as documents have it → text file with a word or phrase a line; the list under "" is
        for all languages.
        max_hits: Documents with more are dropped.
        max_hits_per_kword: Documents with more of them in a thousand words are dropped.
    """

    VERSION: ClassVar[int] = 1
    LATE: ClassVar[frozenset[str]] = frozenset({"max_hits", "max_hits_per_kword"})
    EDITS: ClassVar[bool] = False

    sources: tuple[str, ...]
    files: FrozenMap[str, str]
    max_hits: int | None = None
    max_hits_per_kword: float | None = None

    def annotate(self, documents: list[Document]) -> tuple[list[Document], Signals]:
        """Measure `blocklist_hits` and `blocklist_hits_per_kword` of every document."""
        lists = {
            language: hashes_of(user_list(file, field="files").lines)
            for language, file in self.files.items()
        }
        languages = np.array([document.language for document in documents], str)
        n_words, hits = np.zeros(len(documents)), np.zeros(len(documents))
        for orders in ngrams(
            (document.text for document in documents), max(map(len, lists.values()), default=1)
        ):
            n_words += np.bincount(orders[0].text, minlength=len(documents))
            for language, listed in lists.items():
                # The list under the empty name is for documents of every language.
                concerned = (languages == language) | (language == "")
                for grams, hashes in zip(orders, listed, strict=False):
                    hit = np.isin(grams.hashes, hashes) & concerned[grams.text]
                    hits += np.bincount(grams.text[hit], minlength=len(documents))
        per_kword = 1000 * hits / np.maximum(n_words, 1)
        return documents, {
            "blocklist_hits": hits.astype(np.float32),
            "blocklist_hits_per_kword": per_kword.astype(np.float32),
        }

    def limits(self) -> tuple[Limit, ...]:
        """At most `max_hits` and `max_hits_per_kword`."""
        most = (
            ("blocklist_hits", self.max_hits),
            ("blocklist_hits_per_kword", self.max_hits_per_kword),
        )
        return tuple(
            Limit("blocklist", signal, most=value) for signal, value in most if value is not None
        )

    def fingerprint(self) -> str:
        """Hashes of the list files, in the order of the field."""
        return " ".join(user_list(file, field="files").sha256 for file in self.files.values())


@lru_cache(maxsize=8)
def hashes_of(phrases: frozenset[str]) -> tuple[np.ndarray, ...]:
    """The hashes of the phrases of one word, of two, …, up to the longest."""
    ordered = sorted(phrases)
    # Words of each phrase as `ngrams` counts them, so that phrases and texts are cut alike.
    n_words = sum(
        np.bincount(orders[0].text, minlength=len(ordered)) for orders in ngrams(ordered, 1)
    )
    by_length: list[list[np.ndarray]] = [[] for _ in range(int(n_words.max()))]
    for orders in ngrams(ordered, len(by_length)):
        for n, order in enumerate(orders):
            # Of a phrase of k words only its one k-gram is listed, not the shorter runs inside.
            by_length[n].append(order.hashes[n_words[order.text] == n + 1])
    return tuple(np.concatenate(hashes) for hashes in by_length)


class Toxicity(BaseModel, frozen=True, extra="forbid", strict=True):
    """Measures how much of a text is toxic: the mean over its characters of the probability that their
    sentence is.

    Attributes:
        sources: The sources it applies to.
        max_score: Documents with a higher mean are dropped.
        language: Of the model; documents known to be in another one are not measured and stay.
        model: A file that `LinearClassifier.save` wrote; "" = the one that comes with this package.
    """

    VERSION: ClassVar[int] = 1
    LATE: ClassVar[frozenset[str]] = frozenset({"max_score"})
    EDITS: ClassVar[bool] = False

    sources: tuple[str, ...]
    max_score: float
    language: str = "en"
    model: str = ""

    def annotate(self, documents: list[Document]) -> tuple[list[Document], Signals]:
        """Signal: `toxicity`, 0 to 1; NaN where not measured."""
        # An empty text has no sentences and scores NaN, which no limit drops.
        texts = [
            document.text if document.language in ("", self.language) else ""
            for document in documents
        ]
        sentences = [sentences_of(text) for text in texts]
        probabilities = sigmoid(
            self._classifier().logits([sentence for part in sentences for sentence in part])
        )
        return documents, {"toxicity": mean_by_text(probabilities, sentences)}

    def limits(self) -> tuple[Limit, ...]:
        """At most `max_score`, the mean probability of toxicity."""
        return (Limit("toxicity", "toxicity", most=self.max_score),)

    def fingerprint(self) -> str:
        """Hash of the classifier's weights."""
        return self._classifier().fingerprint()

    def _classifier(self) -> LinearClassifier:
        return load(Path(os.path.expanduser(self.model)) if self.model else TOXICITY_MODEL)


def sentences_of(text: str) -> list[str]:
    """The text between line ends and ends of sentences; nothing for a blank text."""
    return [
        sentence for sentence in SENTENCE_END.split(text) if sentence and not sentence.isspace()
    ]


def train_toxicity(tweets: Iterable[str], neutral: Iterable[str]) -> LinearClassifier:
    """A classifier from labelled tweets and neutral sentences; the tweets alone, gathered by a lexicon, do
    not show it ordinary prose.

    Args:
        tweets: The lines of a CSV with `tweet` and `class`, 0 hate, 1 offensive, 2 neither (Davidson et al.
        2017).
        neutral: As they are to be scored, one by one.
    """
    # Davidson's classes: 0 hate speech, 1 offensive language, 2 neither.
    rows = [(plain(row["tweet"]), row["class"]) for row in csv.DictReader(tweets)]
    toxic = [text for text, label in rows if label in "01"]
    return train_classifier(toxic, [*(text for text, label in rows if label == "2"), *neutral])


def plain(tweet: str) -> str:
    """The words of a tweet, without handles, links, marks and HTML entities."""
    return " ".join(MEDIUM.sub(" ", html.unescape(html.unescape(tweet))).split())
