"""Which language a text is in, by py3langid."""

from typing import ClassVar

import numpy as np
from pydantic import BaseModel

from data_pipeline.clean.identify import classify, model
from data_pipeline.clean.languages import LANGUAGES, own
from data_pipeline.clean.rule import Limit, Signals
from data_pipeline.documents.document import Document


class Language(BaseModel, frozen=True, extra="forbid", strict=True):
    """Names the language of each document, and keeps those in some languages.

    Attributes:
        sources: The sources it applies to: prose only, code has no such language.
        languages: ISO 639-1 codes.
        first_chars: How much of a text is looked at.
        min_probability: Of the most probable language, among all that py3langid knows; the entry of a
        language in `languages.py` may
            have its own. FineWeb and DCLM have 0.65 (of another identifier).
    """

    VERSION: ClassVar[int] = 1
    LATE: ClassVar[frozenset[str]] = frozenset({"min_probability"})
    EDITS: ClassVar[bool] = True
    sources: tuple[str, ...]
    languages: tuple[str, ...]
    first_chars: int
    min_probability: float = 0.65

    def annotate(self, documents: list[Document]) -> tuple[list[Document], Signals]:
        """Documents with `language` set; `language_probability` is 0 for those in none of `languages`.

        Raises:
            ValueError: py3langid does not know a language.
        """
        for language in self.languages:
            if language not in model().labels:
                raise ValueError(
                    f"languages={language!r} is none that py3langid knows; give ISO 639-1 codes such as 'en'"
                )
        # White space is folded, so that a page of short lines is no other text than a page of long ones.
        labelled = classify(
            [" ".join(document.text[: self.first_chars].split()) for document in documents]
        )
        named = [
            document._replace(language=language)
            for document, (language, _) in zip(documents, labelled, strict=True)
        ]
        return named, {
            "language_probability": np.array(
                [score if language in self.languages else 0.0 for language, score in labelled]
            )
        }

    def limits(self) -> tuple[Limit, ...]:
        """A text in another language than these has probability 0."""
        least = {code: self.least(code) for code in self.languages}
        # One limit for all languages and stricter ones on top: a limit without a language holds for every
        # document.
        loosest = min(least.values())
        stricter = [
            Limit("language", "language_probability", bound, language=code)
            for code, bound in least.items()
            if bound > loosest
        ]
        return (Limit("language", "language_probability", loosest), *stricter)

    def least(self, language: str) -> float:
        """Probability from which a language is believed."""
        return own(
            LANGUAGES[language].min_probability if language in LANGUAGES else None,
            self.min_probability,
        )
