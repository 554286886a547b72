"""Menus, headers and footers told by comparison: lines that several pages of one site have alike, at their
edges or in a row.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import xxhash
from pydantic import BaseModel, Field, PositiveInt

from data_pipeline.clean import units
from data_pipeline.clean.canonical import canonical, chunks, mixed
from data_pipeline.clean.code_blocks import listing_lines
from data_pipeline.clean.dedup import require_most_left
from data_pipeline.clean.line_dedup import write_cuts
from data_pipeline.clean.rule import Limit, Signals
from data_pipeline.clean.words import Layout
from data_pipeline.documents.document import Document
from data_pipeline.engine import tables

HOST = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://(?:www\.)?([^/?#]+)")
LONG = np.uint64(1)  # lowest bit of a key: the line has words enough for a sentence
WHOLE = -1  # in place of a line's number: the document goes whole


class SiteMenus(BaseModel, frozen=True, extra="forbid", strict=True):
    """Cuts lines that more than `max_pages` pages of one site have, where they stand at the beginning or
    end of a page or at least `min_run` in a row; below a page's first line, its title, two in a row.

    A heading such as "See also" inside a page stays however many pages have it, and so do code blocks. Short
    lines go from all pages, long ones (a notice, an introduction) stay in the lowest. A page of which
    nothing but short lines is left, and less than half of these, goes whole.

    Attributes:
        sources: The sources it applies to.
        max_pages: Of a site, that may have the same line. A site is the host of a URL, or the first folder
        of a path.
        min_run: So many lines in a row are a menu wherever they stand.
        long_words: A line of so many words is long.
        max_removed_frac: More of the lines gone is an error.
    """

    VERSION: ClassVar[int] = 2

    sources: tuple[str, ...]
    max_pages: PositiveInt = 2
    min_run: PositiveInt = 3
    long_words: PositiveInt = 10
    max_removed_frac: float = Field(gt=0, le=1, default=0.8)

    LATE: ClassVar[frozenset[str]] = frozenset({"max_pages", "min_run", "max_removed_frac"})
    EDITS: ClassVar[bool] = False
    REASON: ClassVar[str] = "site_menu"

    def annotate(self, documents: list[Document]) -> tuple[list[Document], Signals]:
        """`lines`: a list of keys a document, of its lines with words, in order; NO_KEY for those of code
        blocks.
        """
        keys: list[np.ndarray] = []
        texts = [document.text for document in documents]
        for chunk in chunks(texts):
            words = canonical(chunk)
            lines = units.lines(chunk, words)
            bounds = np.searchsorted(lines.text, np.arange(1, len(chunk)))
            of_lines = np.split(words.keys(lines.first, lines.last), bounds)
            is_long = np.split(lines.last - lines.first >= self.long_words, bounds)
            starts = np.split(lines.start, bounds)
            for text, *line in zip(chunk, of_lines, is_long, starts, strict=True):
                site = site_of(documents[len(keys)].path)
                keys.append(keys_of(text, site, *line))
        return documents, {"lines": keys}

    def limits(self) -> tuple[Limit, ...]:
        """None: the verdict depends on other documents."""
        return ()

    def resolve(self, keys: Sequence[Path], out: Path) -> None:
        """Verdicts: `document`, `line` (number among the lines with words, or WHOLE).

        Raises:
            ValueError: more than `max_removed_frac` of the lines would go.
        """
        common = tables.shared(keys, "lines", more_than=self.max_pages)
        n, cuts = 0, [np.zeros((2, 0), np.int64)]
        for batch in tables.batches(keys, "lines"):
            page = Pages(*tables.flat(batch, "lines"))
            n += len(page.key)
            is_shared, place = common.find(page.key)
            is_menu = is_shared & self.in_menu(page, is_shared)
            if is_menu.any():
                # A long line stays in the lowest page, so that a notice is in the corpus once.
                is_long = (page.key & LONG) != 0
                is_menu &= ~is_long | (common.first[place] != page.document)
            cuts.append(np.stack([page.document[is_menu], page.number[is_menu]]))
            whole = page.without_text(is_menu)
            cuts.append(np.stack([whole, np.full(len(whole), WHOLE)]))
        document, number = np.concatenate(cuts, axis=1)
        require_most_left(self, int((number != WHOLE).sum()), n, "lines")
        write_cuts(out, document, number)

    def in_menu(self, page: "Pages", is_shared: np.ndarray) -> np.ndarray:
        """Which lines stand at an edge, with shared lines alone between, or in a run, bool [lines]."""
        others = np.cumsum(~is_shared)
        first, last = page.bounds()
        # How many lines that are not shared stand before each in its page, and after it; itself counts
        # neither way, since the caller asks for shared lines alone.
        before = others - (others - ~is_shared)[first]
        after = others[last] - others
        run = np.cumsum(np.diff(is_shared, prepend=False) | page.begins())
        n_run = np.bincount(run, minlength=1)[run]
        below_title = (before == 1) & (n_run > 1)
        return (before == 0) | (after == 0) | below_title | (n_run >= self.min_run)

    def dropped(self, verdicts: Mapping[str, np.ndarray]) -> np.ndarray:
        """The pages that were menus and little else."""
        return verdicts[tables.DOCUMENT][verdicts["line"] == WHOLE]

    def spans(
        self, document: Document, verdicts: Mapping[str, np.ndarray]
    ) -> list[tuple[int, int]]:
        """The places of the lines to cut."""
        # Lines are numbered as `annotate` numbered them, by the same function on the same text.
        lines = units.lines([document.text], canonical([document.text]))
        lines = lines.where(verdicts["line"][verdicts["line"] != WHOLE])
        return list(zip(lines.start.tolist(), lines.end.tolist(), strict=True))


class Pages(NamedTuple):
    """The lines of some pages, those of a page together and in order.

    Attributes:
        document: The number of each line's page.
        number: Of the line in its page.
        key: What it is compared by.
    """

    document: np.ndarray
    number: np.ndarray
    key: np.ndarray

    def begins(self) -> np.ndarray:
        """Which lines are the first of their page."""
        return self.number == 0

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The places of the first and of the last line of each line's page."""
        starts = np.flatnonzero(self.begins())
        page = np.cumsum(self.begins()) - 1
        return starts[page], (np.append(starts[1:], len(self.key)) - 1)[page]

    def without_text(self, is_menu: np.ndarray) -> np.ndarray:
        """The pages of which most lines are menu, and no long line and no code is left."""
        starts = np.flatnonzero(self.begins())
        if not len(starts):
            return np.zeros(0, np.int64)
        text = ~is_menu & (((self.key & LONG) != 0) | (self.key == tables.NO_KEY))
        n_text = np.add.reduceat(text.astype(np.int64), starts)
        n_menu = np.add.reduceat(is_menu.astype(np.int64), starts)
        n_lines = np.diff(np.append(starts, len(is_menu)))
        return self.document[starts][(n_text == 0) & (2 * n_menu > n_lines)]


def site_of(path: str) -> str:
    """The host of a URL without `www.`, or the first folder of a path."""
    host = HOST.match(path)
    return host[1].lower() if host else path.partition("/")[0] if "/" in path else ""


def keys_of(
    text: str, site: str, keys: np.ndarray, is_long: np.ndarray, starts: np.ndarray
) -> np.ndarray:
    """The keys of a text's lines, mixed with their site; NO_KEY for lines of code blocks."""
    salt = np.uint64(xxhash.xxh3_64_intdigest(site.encode(errors="replace")))
    # The lowest bit tells long lines, and no key may be NO_KEY.
    salted = np.maximum(mixed(keys ^ salt) & ~LONG, np.uint64(2)) | is_long
    layout = Layout([text])
    in_code = np.isin(starts, layout.lines.begin[listing_lines(layout)])
    salted[in_code] = tables.NO_KEY
    return salted
