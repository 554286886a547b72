"""The tables at the end of a run, from the phases' results.json."""

from collections.abc import Mapping
from typing import Any

from launch.terminal.console import Console
from launch.terminal.drop_table import drop_table

MOST_ROWS = 12  # of a phase, so that the whole fits a screen
TROUBLE = {
    "goodput": ("goodput", 1),
    "skipped": ("skipped", 0),
    "rollbacks": ("rollbacks", 0),
}  # title: (key, value of a calm run)


def print_summary(console: Console, results: Mapping[str, Mapping[str, Any] | None]) -> None:
    """Print what was kept and dropped, before against after, speed, and samples of text; phases without
    results are left out.
    """
    found = {name: result for name, result in results.items() if result}
    for name, result in found.items():
        _print_corpora(console, name, result)
    rows = [row for name, result in found.items() for row in _comparison(name, result)]
    _print_rows(
        console,
        "Held out, before and after each phase",
        ("phase", "metric", "before", "after", "change"),
        rows,
        text_columns=2,
    )
    _print_speed(
        console, {name: result["summary"] for name, result in found.items() if result.get("summary")}
    )
    for name, result in found.items():
        for sample in result.get("samples", [])[:2]:
            console.say(f"{name}: {_one_line(sample['prompt'])} → {_one_line(sample['text'])}")


def _print_rows(
    console: Console, title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]], *, text_columns: int
) -> None:
    """A table, if there is anything to show."""
    if rows:
        console.table(title, columns, rows, text_columns=text_columns)


def _print_corpora(console: Console, name: str, result: Mapping[str, Any]) -> None:
    kept = [
        (source, *(f"{count:,}" for count in counts.values()))
        for source, counts in result.get("kept", {}).items()
    ]
    units = next(iter(result.get("kept", {}).values()), {})
    _print_rows(console, f"{name}: kept to train on", ("source", *units), kept, text_columns=1)
    heads, dropped = drop_table(result)
    _print_rows(console, f"{name}: dropped", heads, dropped, text_columns=1)


def _comparison(name: str, result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row a metric; of many held-out sets their means, where there are such, and bits a byte if they are
    not too many.
    """
    before, after = result.get("before", {}), result.get("after", {})
    means = [metric for metric in after if metric.startswith("macro/")]
    sizes = [
        metric
        for metric in after
        if metric.endswith("/bits_per_byte") and not metric.startswith(("macro/", "micro/"))
    ]
    means = [*sizes, *means] if len(sizes) + len(means) <= MOST_ROWS else means
    return [
        (
            name,
            metric,
            f"{before[metric]:.4g}" if metric in before else "",
            f"{after[metric]:.4g}",
            _change(before.get(metric), after[metric]),
        )
        for metric in (means if means and len(after) > MOST_ROWS else after)
    ]


def _change(before: float | None, after: float) -> str:
    return f"{after - before:+.3g}" if before is not None else ""


def _print_speed(console: Console, summaries: Mapping[str, Mapping[str, Any]]) -> None:
    """A row a phase; what went wrong has a column only if something did."""
    troubled = [
        title
        for title, (key, calm) in TROUBLE.items()
        if any(each.get(key, calm) != calm for each in summaries.values())
    ]
    rows = [
        (*_speed(name, each), *(_trouble(each, *TROUBLE[title]) for title in troubled))
        for name, each in summaries.items()
    ]
    _print_rows(
        console, "Speed", ("phase", "steps", "seconds", "tokens/s", "MFU", *troubled), rows, text_columns=1
    )


def _speed(name: str, summary: Mapping[str, Any]) -> tuple[str, ...]:
    mfu = summary.get("mfu")
    numbers = (
        f"{summary[key]:,.0f}" if key in summary else "" for key in ("steps", "seconds", "tokens_per_s")
    )
    return (name, *numbers, f"{mfu:.1%}" if mfu is not None else "")


def _trouble(summary: Mapping[str, Any], key: str, calm: int) -> str:
    value = summary.get(key, calm)
    return f"{value:.1%}" if key == "goodput" else f"{value:,.0f}"


def _one_line(text: str) -> str:
    joined = " ".join(text.split())
    return joined if len(joined) <= 100 else joined[:99] + "…"
