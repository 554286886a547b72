"""What a run folder holds, as the report reads it. A file that cannot be read is reported and left out."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from launch.job.yaml import read_yaml
from trainer.events import has_step, is_number, json_lines
from trainer.records.metrics import METRICS_FILE


class Column(NamedTuple):
    """One metric over the steps it was written at; the steps rise, a value may be NaN."""

    steps: np.ndarray
    values: np.ndarray

    @property
    def last(self) -> float:
        """The newest value, which may be NaN."""
        return float(self.values[-1])


class PhaseRecord(NamedTuple):
    """One phase: `config` is its part of job.yaml, `state` says how far it is in words."""

    name: str
    folder: Path
    config: Mapping[str, Any]
    results: Mapping[str, Any]
    columns: Mapping[str, Column]
    events: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    state: str

    @property
    def step(self) -> int:
        """The newest step that left a row; 0 before the first."""
        return int(self.columns["time"].steps[-1]) if "time" in self.columns else 0

    @property
    def done(self) -> bool:
        """Whether it came to its end."""
        return self.state == "done"

    @property
    def trained(self) -> bool:
        """Whether it has rows of training."""
        return bool(self.columns)

    def last(self, name: str) -> float | None:
        """The newest value of a metric, None if it was never written."""
        return self.columns[name].last if name in self.columns else None


class RunRecord(NamedTuple):
    """A run folder: its phases in order, how it was started last, and what could not be read."""

    name: str
    folder: Path
    phases: list[PhaseRecord]
    launch: Mapping[str, Any]
    problems: list[str]


def read_run(folder: Path) -> RunRecord:
    """Everything that is in the folder so far.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it is none of a run.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is no folder; give the folder of a run, such as runs/tiny"
        )
    problems: list[str] = []
    job = _mapping(folder / "job.yaml", read_yaml, problems)

    # An earlier configuration may have had phases that job.yaml no longer names.
    with_results = {
        path.parent.name
        for file in (METRICS_FILE, "results.json")
        for path in folder.glob(f"*/{file}")
    }
    # In about the order in which they ran. On Linux ctime is the time of the folder's last change;
    # a time of creation is not available on all systems.
    others = sorted(with_results - set(job), key=lambda name: (folder / name).stat().st_ctime)
    phases = [
        _phase(folder / name, _as_mapping(job.get(name)), problems) for name in (*job, *others)
    ]

    # the last start counts
    launches = list(json_lines(folder / "launches.jsonl"))
    # the folder of a run that begins is empty, but for its lock
    has_content = any(not path.name.startswith(".") for path in folder.iterdir())
    if has_content and not (phases or launches or problems):
        rule = f"{folder} is no folder of a run (it has neither job.yaml nor a phase)"
        raise ValueError(f"{rule}; give one such as runs/tiny")
    return RunRecord(
        folder.resolve().name, folder, phases, launches[-1] if launches else {}, problems
    )


def _phase(folder: Path, config: Mapping[str, Any], problems: list[str]) -> PhaseRecord:
    # rows that a crash cut in two are skipped
    columns = read_columns(folder / METRICS_FILE)
    return PhaseRecord(
        name=folder.name,
        folder=folder,
        config=config,
        results=_mapping(folder / "results.json", _read_json, problems),
        columns=columns,
        events=list(json_lines(folder / "events.jsonl")),
        samples=list(json_lines(folder / "samples.jsonl")),
        state=_state(folder, columns),
    )


def _state(folder: Path, columns: Mapping[str, Column]) -> str:
    if (folder / "done.json").exists():
        return "done"
    if columns:
        return f"at step {max(int(column.steps[-1]) for column in columns.values()):,}"
    return "begun" if folder.exists() else "not begun"


def read_columns(path: Path) -> dict[str, Column]:
    """metrics.jsonl by metric. Of a step that was made twice, after a rollback, the last row counts."""
    steps: dict[str, list[int]] = {}
    values: dict[str, list[float]] = {}
    for row in json_lines(path):
        # A row without a whole number as its step is damaged, and none of its values count.
        step = row.pop("step") if has_step(row) else None
        numbers = {name: x for name, x in row.items() if x is None or is_number(x)}
        for name, value in numbers.items() if step is not None else ():
            if name not in steps:
                steps[name], values[name] = [], []
            steps[name].append(step)
            # JSON has no NaN: `null` stands for it.
            values[name].append(np.nan if value is None else value)
    return {name: _column(np.array(steps[name]), np.array(values[name], float)) for name in steps}


def _column(steps: np.ndarray, values: np.ndarray) -> Column:
    """A column without the rows that a later row, of the same step or an earlier one, replaces."""
    # The least step in all rows after each row; after the last row a number above all steps.
    least_after = np.append(np.minimum.accumulate(steps[::-1])[::-1][1:], np.iinfo(np.int64).max)
    is_final = steps < least_after
    return Column(steps[is_final], values[is_final])


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _mapping(path: Path, read, problems: list[str]) -> Mapping[str, Any]:
    """What `read` returns for the file; {} if it is missing, or if it cannot be read, which is noted."""
    try:
        return _as_mapping(read(path)) if path.exists() else {}
    except (OSError, ValueError) as error:
        problems.append(f"{path.parent.name}/{path.name} cannot be read and is left out: {error}")
        return {}


def _as_mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
