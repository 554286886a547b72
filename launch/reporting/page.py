"""The bricks of report.html: tables, folds and figures in one self-contained page.

page.html.jinja and page.css say how a brick looks; whether there is anything to show is decided here. Each
function returns HTML and escapes the text that it takes, except where an argument is said to be HTML.
"""

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

HERE = Path(__file__).parent


@functools.cache
def _bricks() -> Any:
    """The macros of page.html.jinja, read once a process."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        # Names of runs and generated text may hold anything, so all is escaped unless it is Markup.
        autoescape=True,
        undefined=StrictUndefined,  # a misspelt name is an error, not an empty string
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja").module


def page(title: str, body: Iterable[str]) -> str:
    """The whole document: no file or address outside it is needed to show it. `body` is HTML."""
    style = (HERE / "page.css").read_text(encoding="utf-8")
    # Markup says that a text is HTML already, and must not be escaped.
    return str(_bricks().page(title, Markup(style), Markup("\n".join(body))))


def run_header(
    *,
    name: str,
    command: str,
    made: str,
    problems: Sequence[str],
    phases: Sequence[tuple[str, str]],
    tiles: Iterable[str],
) -> str:
    """The first screen of a run: its command, links to its phases (name, state), and `tiles`, which are
    HTML.
    """
    return str(_bricks().run_header(name, command, made, problems, phases, Markup("".join(tiles))))


def comparison_header(runs: Sequence[tuple[str, str]], problems: Sequence[str]) -> str:
    """The names of the runs with the colours of their curves."""
    return str(_bricks().comparison_header(runs, problems))


def section(anchor: str, title: str, parts: Iterable[str]) -> str:
    """A card with an anchor; nothing when all its parts, which are HTML, are empty."""
    content = "\n".join(part for part in parts if part)
    return str(_bricks().section(anchor, title, Markup(content))) if content else ""


class Cell(NamedTuple):
    """Text of a table with a mark: `good`, `warn`, `bad`, `best` or `wrap`."""

    text: str
    mark: str

    def __bool__(self) -> bool:
        """Whether it says anything."""
        return bool(self.text)


def table(
    heads: Sequence[str | Cell], rows: Sequence[Sequence[str | Cell]], *, n_text: int = 1
) -> str:
    """A table whose first `n_text` columns are text and the others numbers; a column that is empty in every
    row is left out.
    """
    if not rows:
        return ""
    # A column that all rows leave empty, such as `language`, only takes space.
    filled = [i for i in range(len(heads)) if any(row[i] for row in rows)]
    head = [_with_classes(heads[i], is_number=i >= n_text) for i in filled]
    body = [[_with_classes(row[i], is_number=i >= n_text) for i in filled] for row in rows]
    return str(_bricks().table(head, body))


def _with_classes(cell: str | Cell, *, is_number: bool) -> tuple[str, str]:
    """(text, CSS classes) of a cell."""
    text, mark = (cell, "") if isinstance(cell, str) else cell
    return text, " ".join(name for name in ("number" if is_number else "", mark) if name)


def fold(title: str, content: str) -> str:
    """HTML that opens on a click; nothing when it is empty."""
    return str(_bricks().fold(title, Markup(content))) if content else ""


def figure(caption: str, note: str, svg: str, keys: Sequence[tuple[str, str]]) -> str:
    """A chart with its name, and a note or, for several curves, their key: (text, colour) each."""
    return str(_bricks().figure(caption, note, Markup(svg), keys))


def swatch(colour: str) -> str:
    """A short line in a curve's colour."""
    return str(_bricks().swatch(colour))


def grid(figures: Iterable[str]) -> str:
    """Charts, which are HTML, beside each other; nothing when there are none."""
    # Drawn first: the iterable may be a generator, which has no length.
    drawn = "".join(figures)
    return f'<div class="charts">{drawn}</div>' if drawn else ""


def titled(title: str, content: str) -> str:
    """HTML under a small heading; nothing when it is empty."""
    return f"{Markup('<h3>{}</h3>').format(title)}{content}" if content else ""


def paragraph(text: str, mark: str = "soft") -> str:
    """A paragraph of one CSS class; nothing when there is no text."""
    return str(Markup('<p class="{}">{}</p>').format(mark, text)) if text else ""


def tile(title: str, value: str, note: str, mark: str = "") -> str:
    """One answer of the first screen."""
    return str(_bricks().tile(title, value, note, mark))


def bar(shares: Sequence[tuple[str, float, str]]) -> str:
    """One bar of shares (text, share of 1, colour) with its key; the rest stays empty."""
    drawn = [(text, f"{share:.2%}", colour) for text, share, colour in shares]
    keys = [(text, colour) for text, _, colour in shares]
    return str(_bricks().bar(drawn) + _bricks().key(keys))


def literal(text: str) -> str:
    """Text as it is, with spaces and line ends."""
    return str(_bricks().literal(text))


def sample(prompt: str, text: str) -> str:
    """A prompt and what a model wrote after it, each in a box of its own."""
    return str(_bricks().sample(prompt, text))
