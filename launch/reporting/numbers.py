"""A phase in a few numbers: held-out metrics, speed, time, tokens."""

import statistics
from collections.abc import Mapping
from typing import Any

import numpy as np

from launch.reporting.record import Column, PhaseRecord

LESS_IS_BETTER = {
    "loss": True,
    "bits_per_byte": True,
    "perplexity": True,
    "dpo_loss": True,
    "accuracy": False,
    "accuracies": False,
    "ranking_accuracy": False,
    "margin": False,
    "margins": False,
    "compression_ratio": False,
}
# Enough rows for a steady median, few enough to show the present speed.
RECENT = 200  # rows behind the present speed


def less_is_better(metric: str) -> bool | None:
    """Which way `web/loss` is better; None if that is not known."""
    return LESS_IS_BETTER.get(metric.rsplit("/", 1)[-1])


def held_out(phase: PhaseRecord) -> dict[str, tuple[float | None, float]]:
    """Metric → (value before the phase or None, value at its end or by now)."""
    before = _without_prefix(phase.results.get("before", {}))
    after = _without_prefix(phase.results.get("after", {}))
    if after:
        return {name: (before.get(name), value) for name, value in after.items()}
    numbers = {}
    for name, column in phase.columns.items():
        if name.startswith("eval/"):
            # The value at step 0 is from before the phase.
            first = float(column.values[0]) if column.steps[0] == 0 else None
            numbers[name.removeprefix("eval/")] = (first, column.last)
    return numbers


def _without_prefix(by_name: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix("eval/"): value for name, value in by_name.items()}


def recent(phase: PhaseRecord, name: str) -> float | None:
    """Median of the newest rows of a metric; None if it was never written."""
    if name not in phase.columns:
        return None
    # A median, because a save or an evaluation makes single rows slow.
    return statistics.median(phase.columns[name].values[-RECENT:].tolist())


def throughput(phase: PhaseRecord, name: str) -> float | None:
    """`tokens_per_s`, `flops_per_s`, `mfu` or `hfu`: of the whole phase when it is done, else of its newest
    rows.
    """
    # One definition for tiles, tables and comparisons: two medians of the same name would differ.
    return phase.results.get("summary", {}).get(name) or recent(phase, f"throughput/{name}")


def speed(phase: PhaseRecord) -> float | None:
    """Tokens a second, as `throughput` has them."""
    return throughput(phase, "tokens_per_s")


def hours(phase: PhaseRecord) -> Column | None:
    """Hours spent in steps and in evaluations and saves between them, by step; the time between two starts
    of a run does not count.
    """
    if "time/step_s" not in phase.columns:
        return None
    total = _summed(phase.columns["time/step_s"], per_step=True)
    for name in ("time/evaluate_s", "time/checkpoint_s", "time/restore_s"):
        if name in phase.columns:
            # Pauses are written at the steps where they happened, and count for those only.
            pauses = _summed(phase.columns[name], per_step=False)
            total = Column(total.steps, total.values + _at(total.steps, pauses))
    return Column(total.steps, total.values / 3600)


def hours_so_far(phase: PhaseRecord) -> float | None:
    """The newest of `hours`; None for a phase without steps."""
    spent = hours(phase)
    return None if spent is None else spent.last


def tokens(phase: PhaseRecord) -> Column | None:
    """Tokens trained on, by step: as counted by source, else from the speed."""
    counted = []
    for name, column in phase.columns.items():
        if name.startswith("tokens/source/"):
            counted.append(_from_zero(column))
    if counted:
        # Sources may be written at different steps, and the sum needs common ones.
        steps = np.unique(np.concatenate([column.steps for column in counted]))
        return Column(steps, sum(_at(steps, column) for column in counted))
    rate = phase.columns.get("throughput/tokens_per_s")
    time = phase.columns.get("time/step_s")
    if rate is None or time is None:
        return None
    per_step = _at(time.steps, rate) * time.values
    return _summed(Column(time.steps, per_step), per_step=True)


def _summed(column: Column, *, per_step: bool) -> Column:
    """Running sums; a value per step stands for all steps since the row before it."""
    # A row counts for all steps since the row before.
    weights = np.diff(column.steps, prepend=0) if per_step else 1
    # A row whose value is not finite adds nothing, or all later sums would be NaN or infinite.
    known = np.nan_to_num(column.values, posinf=0.0, neginf=0.0)
    return _from_zero(Column(column.steps, np.cumsum(known * weights)))


def _from_zero(column: Column) -> Column:
    """A column of running sums with a 0 at step 0."""
    if column.steps[0] == 0:
        return column
    # Otherwise np.interp would use the first value for all steps before it.
    return Column(np.append(0, column.steps), np.append(0.0, column.values))


def _at(steps: np.ndarray, column: Column) -> np.ndarray:
    return np.interp(steps, column.steps, column.values)
