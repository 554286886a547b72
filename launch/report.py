"""report.html of a run: what went in, what each phase did to its held-out numbers, curves, samples; half-done runs too."""

import json
import math
import shlex
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

import yaml

from data_pipeline.files import write_bytes
from launch.report_charts import Curve, chart
from launch.report_data import data_section
from launch.report_page import figure, fold, literal, page, section, table
from trainer.metrics import read_metrics

LESS_IS_BETTER = {"loss": True, "bits_per_byte": True, "perplexity": True, "accuracy": False, "margin": False, "compression_ratio": False}
FIRST_CURVES = (
    "loss/train",
    "eval: loss",
    "eval: bits_per_byte",
    "optimizer/learning_rate",
    "optimizer/grad_norm",
    "throughput/tokens_per_s",
)


def write_report(run_dir: Path) -> Path:
    """Write RUN/report.html from whatever stands in the run folder so far, in one rename; returns its path.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    if not run_dir.is_dir():
        raise FileNotFoundError(f"{run_dir} is no folder; give the folder of a run, such as runs/tiny")
    title, phases = run_dir.resolve().name, _phases(run_dir)
    results = {name: _json(run_dir / name / "results.json") for name in phases}
    rows = {name: read_metrics(run_dir / name) for name in phases}
    corpora = [data_section(name, result) for name, result in results.items() if "kept" in result]
    trained = [_phase(name, run_dir / name, results[name], rows[name]) for name in phases if "kept" not in results[name]]
    states = {name: _state(run_dir / name, rows[name]) for name in phases}
    comparison = section("before-after", "Before and after, on held-out data", [_comparison(results)])
    body = [_header(title, run_dir, states), comparison, *corpora, *trained, _configuration(run_dir)]
    path = run_dir / "report.html"
    write_bytes(path, page(f"{title} · Meshwright", [part for part in body if part]).encode())
    return path


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _phases(run_dir: Path) -> list[str]:
    """In the order of job.yaml, else by age."""
    job = run_dir / "job.yaml"
    if job.exists():
        return list(yaml.safe_load(job.read_text(encoding="utf-8")) or {})
    folders = {path.parent for name in ("metrics.jsonl", "results.json") for path in run_dir.glob(f"*/{name}")}
    return [folder.name for folder in sorted(folders, key=lambda folder: folder.stat().st_ctime)]


def _state(folder: Path, rows: list[dict[str, Any]]) -> str:
    if (folder / "done.json").exists():
        return "done"
    if rows:
        return f"at step {rows[-1]['step']:,}"
    return "begun" if folder.exists() else "not begun"


def _header(title: str, run_dir: Path, states: Mapping[str, str]) -> str:
    launches = run_dir / "launches.jsonl"
    lines = launches.read_text(encoding="utf-8").splitlines() if launches.exists() else []
    last = json.loads(lines[-1]) if lines else {}
    command = shlex.join(["meshwright", *last.get("argv", ["run", str(run_dir / "job.yaml")])])
    versions = ", ".join(f"{name} {version}" for name, version in last.items() if name not in ("time", "argv"))
    chips = "".join(f'<a class="chip" href="#{escape(name)}">{escape(name)} · {escape(state)}</a>' for name, state in states.items())
    lines = f'<p><code>{escape(command)}</code></p><p class="soft">{escape(versions)}</p>'
    return f"<header><h1>{escape(title)}</h1>{lines}<nav>{chips}</nav></header>"


def _comparison(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Every held-out metric of every phase; the last cell says by colour whether it became better."""
    rows, marks = [], []
    for name, result in results.items():
        before = result.get("before", {})
        for metric, after in result.get("after", {}).items():
            known = before.get(metric)
            rows.append((name, metric.removeprefix("eval/"), _number(known), _number(after), _change(known, after)))
            marks.append(_mark(metric, known, after))
    return table(("phase", "metric", "before", "after", "change"), rows, n_text=2, marks=marks)


def _number(value: float | int | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if 10_000 <= abs(value) < math.inf or value % 1 == 0 else f"{value:.4g}"


def _change(before: float | int | None, after: float | int | None) -> str:
    return "" if before is None or after is None else f"{after - before:+.3g}"


def _mark(metric: str, before: float | int | None, after: float | int | None) -> str:
    less_is_better = LESS_IS_BETTER.get(metric.rsplit("/", 1)[-1])
    if less_is_better is None or before is None or after is None or before == after:
        return ""
    return "good" if (after < before) == less_is_better else "bad"


def _phase(name: str, folder: Path, result: Mapping[str, Any], rows: list[dict[str, Any]]) -> str:
    """Speed, curves and samples of a trained phase."""
    groups = _grouped(rows)
    drawn = [_figure(name, metric, curves) for metric, curves in groups.items()]
    charts = f'<div class="charts">{"".join(drawn)}</div>' if drawn else ""
    samples = "".join(literal(sample["text"], sample["prompt"]) for sample in result.get("samples", []))
    state = "" if (folder / "done.json").exists() else f'<p class="soft">{_state(folder, rows)}</p>'
    return section(name, name, [state, _speed(result.get("summary", {})), charts, "<h3>Samples</h3>" + samples if samples else ""])


def _speed(summary: Mapping[str, Any]) -> str:
    shown = {key: f"{value:.1%}" if key == "mfu" else _number(value) for key, value in summary.items() if isinstance(value, int | float)}
    return table(list(shown), [list(shown.values())], n_text=len(shown))


def _grouped(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Curve]]:
    """Chart → curves: the same metric of all held-out sets shares a chart, anything else stands alone; the most asked for come first."""
    groups: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for row in rows:
        for name, value in row.items():
            if name not in ("step", "time"):
                chart_name, curve_name = _place(name)
                groups.setdefault(chart_name, {}).setdefault(curve_name, []).append((row["step"], value))
    order = {name: i for i, name in enumerate(FIRST_CURVES)}
    return dict(sorted(groups.items(), key=lambda item: (order.get(item[0], len(order)), item[0])))


def _place(name: str) -> tuple[str, str]:
    """`eval/web/loss` -> (`eval: loss`, `web`)."""
    parts = name.split("/")
    return (f"eval: {parts[-1]}", "/".join(parts[1:-1])) if parts[0] == "eval" and len(parts) > 2 else (name, name)


def _figure(phase: str, metric: str, curves: Mapping[str, Curve]) -> str:
    note = _number(next(iter(curves.values()))[-1][1]) if len(curves) == 1 else ""
    return figure(metric, note, chart(curves, salt=f"{phase} {metric}"), list(curves))


def _configuration(run_dir: Path) -> str:
    job = run_dir / "job.yaml"
    return section("configuration", "Configuration", [fold("job.yaml", literal(job.read_text(encoding="utf-8")))] if job.exists() else [])
