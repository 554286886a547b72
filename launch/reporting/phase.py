"""The part of report.html about a trained phase: curves, sources, norms, speed, lost time, events,
samples.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from launch.reporting.charts import value_text
from launch.reporting.curves import LEARNING, NORMS, OTHER, SPEED, charts, time_split
from launch.reporting.health import events, goodput
from launch.reporting.page import fold, grid, literal, paragraph, section, table, titled
from launch.reporting.record import PhaseRecord

SAMPLES_SHOWN = 12  # of every prompt, evenly over the steps
PER_CENT = ("mfu", "hfu", "goodput")


def phase_section(phase: PhaseRecord) -> str:
    """Everything a trained phase left; nothing for one that has not begun."""
    if not phase.trained:
        return ""
    state = "" if phase.done else paragraph(phase.state)
    speed = charts(phase.columns, SPEED)
    parts = [
        state,
        titled(LEARNING, grid(charts(phase.columns, LEARNING))),
        titled("Sources", _sources(phase)),
        titled(NORMS, grid(charts(phase.columns, NORMS))),
        titled(
            SPEED,
            _summary(phase.results.get("summary", {})) + grid([time_split(phase.columns), *speed]),
        ),
        titled("Hosts", _slowest(phase)),
        titled("Goodput", goodput(phase)),
        titled(OTHER, grid(charts(phase.columns, OTHER))),
        titled("Events", events(phase)),
        titled("Samples", _samples(phase)),
        fold("All metrics, last values", _last_values(phase)),
    ]
    return section(phase.name, phase.name, parts)


def _sources(phase: PhaseRecord) -> str:
    """A row a source: tokens, share, epochs, the newest loss."""
    heads = {"tokens": "tokens/source/{}", "epochs": "epochs/source/{}", "loss": "loss/source/{}"}
    prefixes = tuple(name.format("") for name in heads.values())
    # A dict keeps the order in which sources were first written, and each only once.
    names = dict.fromkeys(
        # At most two cuts: a source's own name may contain a slash.
        name.split("/", 2)[2]
        for name in phase.columns
        if name.startswith(prefixes)
    )
    tokens = {name: phase.last(f"tokens/source/{name}") or 0.0 for name in names}

    # 1.0: a phase without counts by source
    total = sum(tokens.values()) or 1.0
    rows = [
        (
            name,
            *(value_text(phase.last(key.format(name))) for key in heads.values()),
            f"{tokens[name] / total:.1%}" if tokens[name] else "",
        )
        for name in names
    ]

    return table(("source", *heads, "share of tokens"), rows)


def _summary(summary: Mapping[str, Any]) -> str:
    # texts of the summary stand elsewhere on the page
    numbers = {key: value for key, value in summary.items() if isinstance(value, int | float)}
    shown = {
        key: f"{value:.1%}" if key in PER_CENT else value_text(value)
        for key, value in numbers.items()
    }
    return table(list(shown), [list(shown.values())], n_text=0)


def _slowest(phase: PhaseRecord) -> str:
    """Which hosts were the slowest, how often."""
    if "hosts/slowest" not in phase.columns:
        return ""
    hosts, counts = np.unique(phase.columns["hosts/slowest"].values, return_counts=True)
    worst = [
        f"host {hosts[i]:.0f} in {counts[i] / counts.sum():.0%}" for i in np.argsort(-counts)[:4]
    ]
    # With a single host there is nothing to compare.
    return paragraph(f"Slowest: {', '.join(worst)} of the rows.") if len(hosts) > 1 else ""


def _samples(phase: PhaseRecord) -> str:
    """Texts at the end, and in a fold those on the way."""
    last = "".join(_sample_text(sample) for sample in phase.results.get("samples", []))
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for each in phase.samples:
        by_name.setdefault(str(each.get("name", "")), []).append(each)
    earlier = "".join(_on_the_way(samples) for samples in by_name.values())
    return last + fold("Samples over time", earlier)


def _on_the_way(samples: list[Mapping[str, Any]]) -> str:
    """Samples of one prompt, evenly over the steps."""
    n_shown = min(len(samples), SAMPLES_SHOWN)
    # As a set: rounding may choose a sample twice when there are few.
    chosen = {round(i) for i in np.linspace(0, len(samples) - 1, n_shown)}
    return "".join(
        titled(f"step {value_text(samples[i].get('step'))}", _sample_text(samples[i]))
        for i in sorted(chosen)
    )


def _sample_text(sample: Mapping[str, Any]) -> str:
    return literal(str(sample.get("text", "")), str(sample.get("prompt", "")))


def _last_values(phase: PhaseRecord) -> str:
    rows = [
        (name, value_text(column.last), value_text(int(column.steps[-1])))
        for name, column in sorted(phase.columns.items())
        if name != "time"
    ]
    return table(("metric", "last value", "at step"), rows)
