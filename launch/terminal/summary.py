"""The tables at the end of a run, from the phases' results.json."""

from collections.abc import Mapping
from typing import Any

from launch.terminal.console import Console, even
from launch.terminal.drop_table import cut_table, drop_table

MOST_ROWS = 12  # of a phase, so that the table fits a screen
# title -> (key, value of a run in which nothing went wrong); a column of such values is left out
TROUBLE = {
    "goodput": ("goodput", 1),
    "skipped": ("skipped", 0),
    "rollbacks": ("rollbacks", 0),
}

# how a metric's name ends (its beginning names a held-out set) -> how to read it
HINTS = {
    "bits_per_byte": "bits_per_byte falls as the model predicts text better",
    "chat/accuracy": "chat/accuracy is the share of an answer's tokens that were the model's first choice",
    "rewards/accuracies": "rewards/accuracies is the share of pairs where training favoured the better "
    "answer (0.5 is chance); a loss of text in the same phase should hardly rise",
}


def print_summary(console: Console, results: Mapping[str, Mapping[str, Any] | None]) -> None:
    """Print what was kept and dropped, held-out metrics before and after, speed, and samples of text; phases
    without results are left out.
    """
    by_phase = {name: result for name, result in results.items() if result}
    for name, result in by_phase.items():
        _print_corpora(console, name, result)
    heads = ("phase", "metric", "before", "after", "change")
    rows = [row for name, result in by_phase.items() for row in _comparison(name, result)]
    _print_rows(console, "Held out, before and after each phase", heads, rows, text_columns=2)
    if hints := _hints({metric for _, metric, *_ in rows}):
        console.say("What to look at:")
        for hint in hints:
            console.say(f"  {hint}")
        console.say("")
    speeds = {name: result["summary"] for name, result in by_phase.items() if result.get("summary")}
    _print_speed(console, speeds)
    # Two of each phase show whether the text is readable.
    samples = [
        (name, sample)
        for name, result in by_phase.items()
        for sample in result.get("samples", [])[:2]
    ]
    if not samples:
        return
    console.say("What the model writes after each phase, prompt → text:")
    for name, sample in samples:
        console.say(f"  {name}: {_one_line(sample['prompt'])} → {_one_line(sample['text'])}")
    console.say("")


def _hints(metrics: set[str]) -> list[str]:
    """How to read the metrics of the table that matter most."""
    return [
        hint for ending, hint in HINTS.items() if any(metric.endswith(ending) for metric in metrics)
    ]


def _print_rows(
    console: Console,
    title: str,
    columns: tuple[str, ...],
    rows: list[tuple[str, ...]],
    *,
    text_columns: int,
) -> None:
    """A table, if there is anything to show."""
    if rows:
        console.table(title, columns, rows, text_columns=text_columns)


def _print_corpora(console: Console, name: str, result: Mapping[str, Any]) -> None:
    rows = [
        (source, *(f"{count:,}" for count in counts.values()))
        for source, counts in result.get("kept", {}).items()
    ]
    # Every source is counted in the same units (documents, tokens …): they head the columns.
    units = next(iter(result.get("kept", {}).values()), {})
    _print_rows(console, f"{name}: kept to train on", ("source", *units), rows, text_columns=1)
    heads, dropped = drop_table(result)
    _print_rows(console, f"{name}: documents dropped", heads, dropped, text_columns=1)
    heads, cut = cut_table(result)
    _print_rows(console, f"{name}: cut out of documents that stayed", heads, cut, text_columns=1)


def _comparison(name: str, result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row for each metric. Of more than MOST_ROWS only the means over the held-out sets are shown, and each
    set's bits per byte if these fit.
    """
    before, after = result.get("before", {}), result.get("after", {})
    shown = list(after)
    means = [metric for metric in after if metric.startswith("macro/")]
    if means and len(after) > MOST_ROWS:
        of_sets = [
            metric
            for metric in after
            if metric.endswith("/bits_per_byte") and not metric.startswith(("macro/", "micro/"))
        ]
        shown = [*of_sets, *means] if len(of_sets) + len(means) <= MOST_ROWS else means
    return [(name, metric, *before_after(before.get(metric), after[metric])) for metric in shown]


def before_after(before: float | None, after: float) -> tuple[str, str, str]:
    """(before, after, change), the first and the last empty where the metric was not measured before."""
    change = None if before is None else after - before
    then, now, changed = even(before, after, change)
    return then, now, f"+{changed}" if change and change > 0 else changed


def _print_speed(console: Console, summaries: Mapping[str, Mapping[str, Any]]) -> None:
    """A row a phase; a kind of trouble has a column only if some phase had it."""
    troubled = [
        title
        for title, (key, calm) in TROUBLE.items()
        if any(each.get(key, calm) != calm for each in summaries.values())
    ]
    # A CPU's peak depends on what else it does, so that only an accelerator has a share of it.
    peak = "MFU" if any("mfu" in each for each in summaries.values()) else "GFLOP/s"
    rows = [
        (*_speed(name, each, peak), *(_trouble(each, *TROUBLE[title]) for title in troubled))
        for name, each in summaries.items()
    ]
    heads = ("phase", "steps", "seconds", "tokens/s", peak, *troubled)
    _print_rows(console, "Speed", heads, rows, text_columns=1)


def _speed(name: str, summary: Mapping[str, Any], peak: str) -> tuple[str, ...]:
    # A number that the summary lacks is an empty cell.
    numbers = (
        f"{summary[key]:,.0f}" if key in summary else ""
        for key in ("steps", "seconds", "tokens_per_s")
    )
    if peak == "MFU":
        share = f"{summary['mfu']:.1%}" if "mfu" in summary else ""
    else:
        share = f"{summary['flops_per_s'] / 1e9:,.1f}" if "flops_per_s" in summary else ""
    return (name, *numbers, share)


def _trouble(summary: Mapping[str, Any], key: str, calm: int) -> str:
    value = summary.get(key, calm)
    # Goodput is a share; skipped steps and rollbacks are counts.
    return f"{value:.1%}" if key == "goodput" else f"{value:,.0f}"


def _one_line(text: str) -> str:
    # Line ends of generated text would break the table of a terminal.
    joined = " ".join(text.split())
    return joined if len(joined) <= 100 else joined[:99] + "…"
