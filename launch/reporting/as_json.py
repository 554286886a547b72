"""What the pages say of runs as numbers, for `meshwright report --json`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from launch.reporting.health import incidents, verdict_cell
from launch.reporting.numbers import held_out, hours_so_far
from launch.reporting.record import PhaseRecord, RunRecord


def runs_as_json(runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """A record for each run, with one for each of its phases."""
    records = [
        {
            "name": run.name,
            "folder": str(run.folder.resolve()),
            "health": verdict_cell(run.phases).text,
            "problems": run.problems,
            "phases": [_phase(phase) for phase in run.phases],
        }
        for run in runs
    ]
    return _without_nan(records)


def _phase(phase: PhaseRecord) -> dict[str, Any]:
    """A phase by the numbers of its part of the page; what it has not got yet is None or empty."""
    numbers = {
        metric: {"before": before, "now": now} for metric, (before, now) in held_out(phase).items()
    }
    return {
        "name": phase.name,
        "state": phase.state,
        "done": phase.done,
        "step": phase.step,
        "steps": phase.config.get("steps"),
        "hours": hours_so_far(phase),
        "went_wrong": incidents(phase),
        "held_out": numbers,
        # The step beside the value: slowly changing numbers are not in every row.
        "last": {
            name: {"step": int(column.steps[-1]), "value": column.last}
            for name, column in phase.columns.items()
        },
        "results": phase.results,
    }


def _without_nan(value: Any) -> Any:
    """The same with None for NaN and infinity, which are no JSON."""
    if isinstance(value, Mapping):
        return {name: _without_nan(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
