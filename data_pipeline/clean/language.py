"""Which language a text is in, by py3langid."""

from pydantic import BaseModel

from data_pipeline.clean.rule import Check
from data_pipeline.document import Document
from data_pipeline.drops import Drops


class Language(BaseModel, frozen=True, extra="forbid", strict=True):
    """Keeps documents in one language.

    Attributes:
        sources: The sources it applies to: prose only, code has no such language.
        language: ISO 639-1 code.
        min_probability: Of that language, among all that py3langid knows.
        first_chars: How much of the text is looked at.
    """

    sources: tuple[str, ...]
    language: str
    min_probability: float
    first_chars: int

    def start(self, drops: Drops) -> Check:
        """The check; the model (5 MB, part of the package) is loaded once.

        Raises:
            ValueError: py3langid does not know the language.
        """
        from py3langid.langid import MODEL_FILE, LanguageIdentifier  # half a second: only when a recipe runs

        identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
        if self.language not in identifier.labels:
            raise ValueError(f"language={self.language!r} is none that py3langid knows; give an ISO 639-1 code such as 'en'")

        def check(document: Document) -> Document | None:
            language, probability = identifier.classify(" ".join(document.text[: self.first_chars].split()))
            if language == self.language and probability >= self.min_probability:
                return document
            return drops.add(document.source, "language", f"{language} {probability:.2f}: {document.text[:300]}")

        return check
