"""The bricks of report.html: escaped tables, folds and figures in one self-contained page."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

STYLE = """
:root { color-scheme: light dark; --back: #f7f7f5; --card: #fff; --ink: #1d1f23; --soft: #6a6f78; --rule: #e4e4e0;
  --good: #14784a; --bad: #b3372b; --warn: #a85b00; --chip: #eceef2;
  --line-1: #2563c9; --line-2: #d9730d; --line-3: #2b8a5f; --line-4: #9b3fb5; --line-5: #c2304f; --line-6: #5f6b7a; }
@media (prefers-color-scheme: dark) { :root { --back: #14161a; --card: #1c1f25; --ink: #e6e8eb; --soft: #9aa2ad; --rule: #31353d;
  --good: #56c596; --bad: #f08b7f; --warn: #ffb168; --chip: #2a2f38;
  --line-1: #6ea8ff; --line-2: #ffa657; --line-3: #5fd3a0; --line-4: #d295ea; --line-5: #ff8fa3; --line-6: #a7b3c2; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink); font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1060px; margin: 0 auto; padding: 28px 20px 64px; }
h1 { font-size: 1.75rem; margin: 0; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 0 0 12px; } h3 { font-size: .95rem; margin: 22px 0 8px; color: var(--soft); font-weight: 600; }
p { margin: 6px 0; } .soft { color: var(--soft); } 
td.good, p.good { color: var(--good); } td.bad, p.bad { color: var(--bad); } td.warn { color: var(--warn); }
td.best { color: var(--good); font-weight: 700; }
.wrap.wrap { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 180px; }
section { background: var(--card); border: 1px solid var(--rule); border-radius: 12px; padding: 20px; margin-top: 18px; }
nav { margin-top: 12px; display: flex; flex-wrap: wrap; gap: 8px; }
.chip { background: var(--chip); color: inherit; border-radius: 99px; padding: 2px 12px;
  font-size: .85rem; text-decoration: none; white-space: nowrap; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; min-width: min(100%, 560px); font-size: .9rem; }
th, td { padding: 4px 14px 4px 0; text-align: left; border-bottom: 1px solid var(--rule); white-space: nowrap; vertical-align: top; }
th { color: var(--soft); font-weight: 600; } tr:last-child td { border-bottom: 0; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
.charts { margin-top: 14px; display: grid; grid-template-columns: repeat(auto-fill, minmax(290px, 1fr)); gap: 20px 22px; }
.tiles { margin-top: 18px; display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 14px; }
.tile { background: var(--card); border: 1px solid var(--rule); border-top-width: 4px; border-radius: 12px; padding: 12px 16px; }
.tile h2 { font-size: .8rem; color: var(--soft); margin: 0; font-weight: 600; }
.tile b { display: block; font-size: 1.5rem; line-height: 1.3; overflow-wrap: anywhere; }
.tile p { font-size: .82rem; margin: 2px 0 0; line-height: 1.4; overflow-wrap: anywhere; }
.tile.good { border-top-color: var(--good); } .tile.warn { border-top-color: var(--line-2); } .tile.bad { border-top-color: var(--bad); }
.bar { display: flex; height: 14px; margin: 8px 0; border-radius: 7px; overflow: hidden; background: var(--chip); }
.bar i { display: block; }
.tables { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(440px, 100%), 1fr)); gap: 16px 40px; margin-top: 20px; }
.tables h3 { margin-top: 0; } .tables table { font-size: .82rem; } .tables th, .tables td { padding: 3px 10px 3px 0; }
.small { margin-top: 10px; grid-template-columns: repeat(auto-fill, minmax(210px, 1fr)); gap: 14px 22px; }
.small figcaption { font-size: .78rem; display: block; line-height: 1.4; }
.small figcaption > * { display: block; overflow-wrap: anywhere; }
figure { margin: 0; min-width: 0; display: flex; flex-direction: column; } figure > svg { margin-top: auto; }
figcaption { font-size: .85rem; display: flex; flex-wrap: wrap; gap: 2px 12px; justify-content: space-between; }
figcaption b { font-weight: 600; overflow-wrap: anywhere; } svg { display: block; width: 100%; height: auto; }
.scale { font-size: 10.5px; fill: var(--soft); stroke: none; } .grid { fill: none; stroke: var(--rule); stroke-width: .8; }
.keys { display: flex; flex-wrap: wrap; gap: 0 12px; } .keys span { overflow-wrap: anywhere; }
.key { display: inline-block; width: 10px; height: 3px; border-radius: 2px; margin: 0 5px 3px 0; }
pre { margin: 8px 0; padding: 12px; background: var(--back); border: 1px solid var(--rule); border-radius: 8px;
  font-size: .82rem; line-height: 1.5;
  white-space: pre-wrap; overflow-wrap: anywhere; }
pre .prompt { color: var(--soft); } details { margin-top: 12px; } summary { cursor: pointer; color: var(--soft); }
code { font-size: .88em; overflow-wrap: anywhere; } .command { max-height: 4.7em; overflow-y: auto; }
@media (max-width: 520px) { main { padding: 18px 12px 48px; } section { padding: 14px; }
  table { font-size: .78rem; } th, td { padding-right: 8px; } .wrap.wrap { min-width: 100px; } .charts { grid-template-columns: 1fr; } }
"""


def page(title: str, body: Iterable[str]) -> str:
    """The whole document: no file or address outside it is needed to show it."""
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(title)}</title>'
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head>\n<body><main>\n'
        + "\n".join(body)
        + "\n</main></body></html>\n"
    )


def section(name: str, title: str, parts: Iterable[str]) -> str:
    """A card with an anchor; nothing when all its parts are empty."""
    content = "\n".join(part for part in parts if part)
    return f'<section id="{escape(name)}"><h2>{escape(title)}</h2>\n{content}\n</section>' if content else ""


class Cell(NamedTuple):
    """Text of a table with a mark: `good`, `warn`, `bad`, `best` or `wrap`."""

    text: str
    mark: str

    def __bool__(self) -> bool:
        """Whether it says anything."""
        return bool(self.text)


def table(heads: Sequence[str | Cell], rows: Sequence[Sequence[str | Cell]], *, n_text: int = 1) -> str:
    """A table whose first `n_text` columns are text and the others numbers; a column in which nothing
    stands is left out.
    """
    if not rows:
        return ""
    kept = [i for i in range(len(heads)) if any(row[i] for row in rows)]
    head = "".join(_cell("th", heads[i], i >= n_text) for i in kept)
    body = "".join(
        "<tr>" + "".join(_cell("td", row[i], i >= n_text) for i in kept) + "</tr>\n" for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>'


def _cell(tag: str, cell: str | Cell, is_number: bool) -> str:
    text, mark = (cell, "") if isinstance(cell, str) else cell
    classes = " ".join(name for name in ("number" if is_number else "", mark) if name)
    return f'<{tag} class="{classes}">{escape(text)}</{tag}>' if classes else f"<{tag}>{escape(text)}</{tag}>"


def fold(title: str, content: str) -> str:
    """Content that opens on a click."""
    return f"<details><summary>{escape(title)}</summary>\n{content}\n</details>" if content else ""


def figure(caption: str, note: str, svg: str, keys: Sequence[tuple[str, str]]) -> str:
    """A chart with its name, and a note or, for several curves, their key."""
    aside = key(keys) if len(keys) > 1 else f'<span class="soft">{escape(note)}</span>'
    return f"<figure><figcaption><b>{escape(caption)}</b>{aside}</figcaption>{svg}</figure>"


def key(entries: Sequence[tuple[str, str]]) -> str:
    """Which colour means what: (text, colour) each."""
    drawn = "".join(
        f'<span><i class="key" style="background:{colour}"></i>{escape(text)}</span>'
        for text, colour in entries
    )
    return f'<span class="keys">{drawn}</span>'


def grid(figures: Iterable[str]) -> str:
    """Charts beside each other; nothing when there are none."""
    drawn = "".join(figures)
    return f'<div class="charts">{drawn}</div>' if drawn else ""


def titled(title: str, content: str) -> str:
    """Content under a small heading; nothing when it is empty."""
    return f"<h3>{escape(title)}</h3>{content}" if content else ""


def tile(title: str, value: str, note: str, mark: str = "") -> str:
    """One answer of the first screen."""
    return f'<div class="tile {mark}"><h2>{escape(title)}</h2><b>{escape(value)}</b><p class="soft">{escape(note)}</p></div>'


def bar(parts: Sequence[tuple[str, float, str]]) -> str:
    """One bar of shares (text, share of 1, colour) with its key; the rest stays empty."""
    pieces = "".join(
        f'<i style="width:{share:.2%};background:{colour}" title="{escape(text)}"></i>'
        for text, share, colour in parts
    )
    return f'<div class="bar">{pieces}</div>{key([(text, colour) for text, _, colour in parts])}'


def literal(text: str, prompt: str = "") -> str:
    """Text as it is, a prompt before it in a softer colour."""
    first = f'<span class="prompt">{escape(prompt)}</span>' if prompt else ""
    return f"<pre>{first}{escape(text)}</pre>"
