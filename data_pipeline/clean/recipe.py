"""Recipes: the order of the rules, and the thresholds of each. A recipe is a tuple, so a config can add,
leave out and replace.

What is the user's comes after: rules that need lists, examples or tasks (`Blocklist`, `Decontaminate`), and
dedup of a wider scope.
"""

from data_pipeline.clean import c4
from data_pipeline.clean.book import BookQuality
from data_pipeline.clean.c4 import C4Lines, C4Page
from data_pipeline.clean.code import CodeKind, CodeQuality
from data_pipeline.clean.dedup import ExactDedup
from data_pipeline.clean.fineweb import FineWeb
from data_pipeline.clean.language import Language
from data_pipeline.clean.menus import Menus
from data_pipeline.clean.near_dedup import NearDedup
from data_pipeline.clean.normalise import Normalise
from data_pipeline.clean.pii import Pii
from data_pipeline.clean.quality import GopherQuality, TooShort
from data_pipeline.clean.repetition import GopherRepetition
from data_pipeline.clean.rule import Rule
from data_pipeline.clean.secrets import Secrets
from data_pipeline.clean.site_menus import SiteMenus

# C4's, but pages about programming speak of JavaScript itself.
NOTICES = ("enable javascript", *(notice for notice in c4.NOTICES if notice != "javascript"))


def standard_recipe(
    *,
    web: tuple[str, ...] = ("web",),
    code: tuple[str, ...] = ("code",),
    books: tuple[str, ...] = ("books",),
) -> tuple[Rule, ...]:
    """For small corpora of documentation, source code and books in English; the arguments name the sources
    of each kind.

    Where a threshold differs from its source, it is because reference pages and grammar chapters are lists
    of signatures with short
    explanations: the bulk of good ones would fail the limit made for running text.
    """
    prose = (*web, *books)
    return (
        Normalise(sources=prose, repair_mojibake=True),
        Normalise(sources=code, repair_mojibake=False),
        # Pages about programming have braces and few sentences, so only placeholder text is dropped.
        C4Page(sources=web, max_curly_word_ratio=None, min_sentences=0),
        C4Lines(sources=web, min_line_words=0, notices=NOTICES, max_notice_chars=299),
        # Gopher (Rae et al. 2021, A1) has 50, for web pages that are articles.
        TooShort(sources=prose, min_words=30),
        TooShort(sources=code, min_words=10),
        Language(sources=prose, languages=("en",), first_chars=800),
        GopherQuality(
            sources=prose,
            min_words=0,
            max_words=10_000_000,  # Gopher has 100,000: a book has more
            # Gopher has 0.8, but `->`, `=` and numbers are words of a reference page.
            min_alphabetic_word_frac=0.6,
        ),
        CodeQuality(sources=code),
        Pii(sources=web, kinds=("email", "ip", "phone", "iban", "card")),
        # Last, because documents that differ in raw text may be equal when they are cleaned.
        ExactDedup(sources=(*prose, *code), max_removed_frac=0.5),
    )


def web_recipe(
    *, sources: tuple[str, ...], languages: tuple[str, ...] = ("en",)
) -> tuple[Rule, ...]:
    """FineWeb's (Penedo et al. 2024), for crawled pages: its rules in its order, C4 without the rule of end
    marks.

    Differs in that menus are cut; that code blocks are neither cut nor measured, so that a page that explains
    code is judged by its prose; and that personal data is replaced, telephone numbers and accounts too,
    before near-duplicates are looked for.
    """
    skip_code = {"sources": sources, "skip_code": True}
    return (
        Normalise(sources=sources, repair_mojibake=True),
        # First, so that no page is dropped for the repeated words of its menus.
        Menus(sources=sources),
        Language(sources=sources, languages=languages, first_chars=2_000),
        # With first occurrences counted, a long manual in good prose has more than the limit's share.
        GopherRepetition(as_in_datatrove=True, **skip_code),
        GopherQuality(**skip_code),
        # Lines of 3 words as in datatrove and FineWeb; pages of 3 sentences as in C4, for 5 drop whole
        # paragraphs of long ones.
        C4Lines(min_line_words=3, **skip_code),
        # C4 and FineWeb drop a page for a single `{`; here ten in a thousand words, outside of code.
        C4Page(max_curly_word_ratio=0.01, min_sentences=3, **skip_code),
        # The paper's text has 0.1, its code 0.01, which drops a page whose title stands twice; FineWeb-2
        # has 0.1 for every other language.
        FineWeb(max_repeated_line_char_frac=0.1, **skip_code),
        Pii(sources=sources, kinds=("email", "ip", "phone", "iban", "card")),
        ExactDedup(sources=sources, max_removed_frac=0.9),
        NearDedup(sources=sources, max_removed_frac=0.9),
        # After duplicates, whose lines would all count as the site's.
        SiteMenus(sources=sources),
    )


def code_recipe(*, sources: tuple[str, ...]) -> tuple[Rule, ...]:
    """StarCoder's (Li et al. 2023), for source files; licences, vendored and generated files are the
    reader's.
    """
    return (
        Normalise(sources=sources, repair_mojibake=False),
        TooShort(sources=sources, min_words=10),
        CodeQuality(sources=sources),
        CodeKind(sources=sources),
        Secrets(sources=sources),
        Pii(sources=sources, kinds=("email", "ip")),
        ExactDedup(sources=sources, max_removed_frac=0.9),
        NearDedup(sources=sources, max_removed_frac=0.9),
    )


def book_recipe(
    *, sources: tuple[str, ...], languages: tuple[str, ...] = ("en",)
) -> tuple[Rule, ...]:
    """dolma's (Soldaini et al. 2024), for books and chapters, with Gopher's limits on repetition."""
    return (
        Normalise(sources=sources, repair_mojibake=True),
        Language(sources=sources, languages=languages, first_chars=10_000),
        BookQuality(sources=sources, min_letter_frac=0.75, n_paragraphs=32),
        GopherRepetition(sources=sources),
        ExactDedup(sources=sources, max_removed_frac=0.9),
        NearDedup(sources=sources, max_removed_frac=0.9),
    )
