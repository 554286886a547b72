"""The part of report.html about a trained phase: curves, sources, norms, speed, lost time, events,
samples.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from launch.reporting.charts import tick_text, value_text
from launch.reporting.curves import LEARNING, NORMS, OTHER, SPEED, charts, time_split
from launch.reporting.health import events, goodput
from launch.reporting.page import fold, grid, paragraph, sample, section, table, titled
from launch.reporting.record import PhaseRecord

SAMPLES_SHOWN = 12  # of every prompt, evenly over the steps
PER_CENT = ("mfu", "hfu", "goodput")
HOSTS_SHOWN = 4
# Column of the table of sources → the metrics of a source are this prefix and its name.
BY_SOURCE = {"tokens": "tokens/source/", "epochs": "epochs/source/", "loss": "loss/source/"}
CURVES = "Curves run over the steps of the phase; the number beside a name is its last value."


def phase_section(phase: PhaseRecord) -> str:
    """Everything a trained phase left; nothing for one that has not begun."""
    if not phase.trained:
        return ""
    columns = phase.columns
    learning = grid(charts(columns, LEARNING))
    norms = grid(charts(columns, NORMS))
    speed = grid([time_split(columns), *charts(columns, SPEED)])
    other = grid(charts(columns, OTHER))
    summary = _summary(phase.results.get("summary", {}))
    parts = [
        "" if phase.done else paragraph(phase.state),
        paragraph(CURVES),
        titled(LEARNING, learning),
        titled("Sources", _sources(phase)),
        titled(NORMS, norms),
        titled(SPEED, summary + speed),
        titled("Hosts", _slowest(phase)),
        titled("Goodput", goodput(phase)),
        titled(OTHER, other),
        titled("Events", events(phase)),
        titled("Samples", _samples(phase)),
        fold("All metrics, last values", _last_values(phase)),
    ]
    return section(phase.name, phase.name, parts)


def _sources(phase: PhaseRecord) -> str:
    """A row a source: tokens, share, epochs, the newest loss."""
    tokens: dict[str, float] = {}
    for metric in phase.columns:
        for prefix in BY_SOURCE.values():
            if metric.startswith(prefix):
                # What follows the prefix, because the name of a source may contain a slash.
                source = metric.removeprefix(prefix)
                tokens[source] = phase.last(f"{BY_SOURCE['tokens']}{source}") or 0.0

    # 1.0 for a phase without counts by source.
    total = sum(tokens.values()) or 1.0
    rows = []
    for source, n in tokens.items():
        cells = [value_text(phase.last(prefix + source)) for prefix in BY_SOURCE.values()]
        share = f"{n / total:.1%}" if n else ""
        rows.append((source, *cells, share))
    return table(("source", *BY_SOURCE, "share of tokens"), rows)


def _summary(summary: Mapping[str, Any]) -> str:
    shown = {}
    for key, value in summary.items():
        # Texts of the summary are elsewhere on the page.
        if not isinstance(value, int | float):
            continue
        text = tick_text if key == "flops_per_s" else value_text
        shown[key] = f"{value:.1%}" if key in PER_CENT else text(value)
    return table(list(shown), [list(shown.values())], n_text=0)


def _slowest(phase: PhaseRecord) -> str:
    """Which hosts were the slowest, how often."""
    if "hosts/slowest" not in phase.columns:
        return ""
    slowest = phase.columns["hosts/slowest"].values
    hosts, counts = np.unique(slowest, return_counts=True)
    # With a single host there is nothing to compare.
    if len(hosts) < 2:
        return ""
    texts = []
    for i in np.argsort(-counts)[:HOSTS_SHOWN]:
        share = counts[i] / counts.sum()
        texts.append(f"host {hosts[i]:.0f} in {share:.0%}")
    return paragraph(f"Slowest: {', '.join(texts)} of the rows.")


def _samples(phase: PhaseRecord) -> str:
    """Texts at the end, and in a fold those on the way."""
    last = "".join(_sample_text(row) for row in phase.results.get("samples", []))
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for each in phase.samples:
        by_name.setdefault(str(each.get("name", "")), []).append(each)
    earlier = "".join(_on_the_way(samples) for samples in by_name.values())
    return last + fold("Samples over time", earlier)


def _on_the_way(samples: list[Mapping[str, Any]]) -> str:
    """Samples of one prompt, evenly over the steps."""
    n_shown = min(len(samples), SAMPLES_SHOWN)
    # A set, because rounding may choose a sample twice when there are few.
    chosen = {round(i) for i in np.linspace(0, len(samples) - 1, n_shown)}
    texts = []
    for i in sorted(chosen):
        step = value_text(samples[i].get("step"))
        texts.append(titled(f"step {step}", _sample_text(samples[i])))
    return "".join(texts)


def _sample_text(row: Mapping[str, Any]) -> str:
    return sample(str(row.get("prompt", "")), str(row.get("text", "")))


def _last_values(phase: PhaseRecord) -> str:
    rows = []
    for name, column in sorted(phase.columns.items()):
        # Without `time`, whose seconds since 1970 tell a reader nothing.
        if name != "time":
            step = value_text(int(column.steps[-1]))
            rows.append((name, value_text(column.last), step))
    return table(("metric", "last value", "at step"), rows)
