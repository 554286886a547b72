"""What a finished phase says of itself."""

import statistics
from typing import Any

from data_pipeline.files import write_json
from model.size import n_params
from trainer.cluster.coordination import is_first
from trainer.evals.subject import Findings
from trainer.phase import Phase
from trainer.records.metrics import MetricsWriter, read_metrics


def write_findings(metrics: MetricsWriter, step: int, findings: Findings) -> dict[str, float]:
    """Numbers and sample texts of an evaluation, as `eval/NAME` and `samples/I`; returns the numbers."""
    numbers = {f"eval/{name}": value for name, value in findings.numbers.items()}
    metrics.write(step, numbers)
    for i, sample in enumerate(findings.texts):
        metrics.text(step, f"samples/{i}", f"{sample['prompt']}\n\n{sample['text']}")
    return numbers


def write_results(phase: Phase, *, before: dict[str, float], after: Findings) -> None:
    """results.json: held-out numbers before and after, samples, and a summary."""
    if is_first():
        results = {
            "before": before,
            "after": after.numbers,
            "samples": after.texts,
            "summary": summary_of(phase),
        }
        write_json(phase.folder / "results.json", results)


def summary_of(phase: Phase) -> dict[str, Any]:
    """Medians over the steps of the phase, and its length."""
    rows = [row for row in read_metrics(phase.folder) if "time/step_s" in row]
    medians = {
        name: statistics.median(row[f"throughput/{name}"] for row in rows)
        for name in ("tokens_per_s", "mfu", "hfu")
    }
    accounts = [row for row in rows if "goodput/frac" in row]
    further = {"goodput": accounts[-1]["goodput/frac"]} if accounts else {}
    counts = {
        name: rows[-1][f"guard/{name}"]
        for name in ("skipped", "spikes", "rollbacks")
        if rows[-1][f"guard/{name}"]
    }
    seconds = sum(row["time/step_s"] for row in rows)
    return {
        **medians,
        "steps": phase.run.steps,
        "seconds": seconds,
        "parameters": n_params(phase.params["policy"]),
        **further,
        **counts,
    }
