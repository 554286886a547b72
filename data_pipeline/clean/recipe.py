"""A recipe is a tuple of rules; a document passes those that name its source, in order, until one drops it."""

from collections.abc import Iterable, Iterator

from data_pipeline.clean.dedup import ExactDedup
from data_pipeline.clean.language import Language
from data_pipeline.clean.normalise import Normalise
from data_pipeline.clean.quality import CodeQuality, GopherQuality, TooShort, WebLines
from data_pipeline.clean.rule import Rule
from data_pipeline.document import Document
from data_pipeline.drops import Drops


def run_recipe(rules: tuple[Rule, ...], documents: Iterable[Document], drops: Drops) -> Iterator[Document]:
    """The documents that every rule for their source lets through, in the order they came."""
    started = [(rule.sources, rule.start(drops)) for rule in rules]
    for document in documents:
        kept: Document | None = document
        for sources, check in started:
            if kept is not None and document.source in sources:
                kept = check(kept)
        if kept is not None:
            yield kept


def standard_recipe(*, web: tuple[str, ...] = ("web",), code: tuple[str, ...] = ("code",), books: tuple[str, ...] = ("books",)) -> tuple:
    """The published thresholds, for English prose and source code; the arguments name the sources of each kind.

    Where a threshold differs from its source, it is because reference pages and grammar chapters are lists of signatures with short
    explanations: the bulk of good ones would fail the limit made for running text.
    """
    prose = (*web, *books)
    return (
        Normalise(sources=prose, repair_mojibake=True),
        Normalise(sources=code, repair_mojibake=False),
        WebLines(sources=web),
        TooShort(sources=prose, min_words=30),  # Gopher (Rae et al. 2021, A1) has 50, for web pages that are articles
        TooShort(sources=code, min_words=10),
        Language(sources=prose, language="en", min_probability=0.65, first_chars=800),  # FineWeb and DCLM: 0.65
        GopherQuality(
            sources=prose,
            max_words=10_000_000,  # Gopher has 100,000: a book has more
            min_mean_word_chars=3.0,
            max_mean_word_chars=10.0,
            max_symbol_word_ratio=0.1,
            max_bullet_line_frac=0.9,
            max_ellipsis_line_frac=0.3,
            min_alphabetic_word_frac=0.6,  # Gopher has 0.8: `->`, `=` and numbers are words of a reference page
            min_stop_words=2,
        ),
        # StarCoder (Li et al. 2023)
        CodeQuality(sources=code, max_line_chars=1_000, max_mean_line_chars=100.0, min_alphanumeric_frac=0.25),
        ExactDedup(sources=(*prose, *code)),
    )
