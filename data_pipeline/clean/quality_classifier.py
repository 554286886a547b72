"""Keep the texts most like good examples and least like bad ones, as DCLM does (Li et al. 2024, 4.4)."""

import json
import os
import tempfile
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import BaseModel, Field

from data_pipeline import settings
from data_pipeline.clean.classifier import VERSION as TRAINING_VERSION
from data_pipeline.clean.classifier import LinearClassifier, load, mean_by_text, train_classifier
from data_pipeline.clean.lists import examples_in, examples_sha256
from data_pipeline.clean.rule import Limit, Signals
from data_pipeline.documents.document import Document

# Trained on and scored one by one, so that a long text is no more certain than a short one.
PASSAGE_CHARS = 1_000


class QualityClassifier(BaseModel, frozen=True, extra="forbid", strict=True):
    """Scores documents by a classifier between two folders of examples and keeps the best of each source.

    The classifier is trained when first needed and kept in the user's cache folder under a hash of the
    examples.

    Attributes:
        sources: The sources it applies to.
        positive, negative: Folders of .txt files, a text each, and .jsonl files with a field `text`.
        keep_frac: How much of the documents of a source is kept; DCLM: 0.1.
    """

    VERSION: ClassVar[int] = 1
    LATE: ClassVar[frozenset[str]] = frozenset({"keep_frac"})
    EDITS: ClassVar[bool] = False

    sources: tuple[str, ...]
    positive: str
    negative: str
    keep_frac: Annotated[float, Field(gt=0, le=1)]

    def annotate(self, documents: list[Document]) -> tuple[list[Document], Signals]:
        """Signal: `quality_score`, the mean log-odds over a text's characters; NaN for an empty one."""
        passages = [passages_of(document.text) for document in documents]
        logits = self._classifier().logits([passage for part in passages for passage in part])
        return documents, {"quality_score": mean_by_text(logits, passages)}

    def limits(self) -> tuple[Limit, ...]:
        """At least the quantile that leaves `keep_frac`."""
        return (Limit("quality_classifier", "quality_score", quantile=1 - self.keep_frac),)

    def fingerprint(self) -> str:
        """Hash of the example texts, whatever their file names."""
        positive = examples_sha256(self.positive, field="positive")
        negative = examples_sha256(self.negative, field="negative")
        return f"{positive} {negative}"

    def _classifier(self) -> LinearClassifier:
        return trained(self.positive, self.negative, self.fingerprint())


# Cached in the process too, because it is asked for with every batch.
@lru_cache(maxsize=4)
def trained(positive: str, negative: str, fingerprint: str) -> LinearClassifier:
    """The classifier of two folders whose contents have this fingerprint, from the cache or trained now."""
    # Keyed by all that decides the weights: our features and training, the examples, scikit-learn's solver.
    made_by = [TRAINING_VERSION, fingerprint, version("scikit-learn")]
    cached = cache_folder() / f"{settings.digest(made_by)}.npz"
    if not cached.exists():
        train_classifier(*(examples_of(folder) for folder in (positive, negative))).save(cached)
    return load(cached)


def cache_folder() -> Path:
    """Where trained classifiers stay, by the XDG base directory rules."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if home.startswith("~"):  # neither HOME nor an entry for this user
        home = os.path.join(tempfile.gettempdir(), f"cache-{os.getuid()}")
    return Path(home, "meshwright", "classifiers")


def examples_of(folder: str) -> list[str]:
    """The passages of a folder's texts.

    Raises:
        ValueError: A file is not what its suffix says.
    """
    try:
        return [passage for text in examples_in(folder) for passage in passages_of(text)]
    except (UnicodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{folder!r} holds a file that cannot be read ({error!r}); "
            "give .txt, or .jsonl with a field `text`"
        ) from error


def passages_of(text: str) -> list[str]:
    """The text in pieces of equal length, the last one shorter."""
    return [text[start : start + PASSAGE_CHARS] for start in range(0, len(text), PASSAGE_CHARS)]
