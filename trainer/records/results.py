"""results.json of a finished phase, and the numbers of evaluations among the metrics."""

import statistics
from typing import Any

from data_pipeline.files import write_json
from model.size import n_params
from trainer.checkpoints.finished import DONE, ending_of
from trainer.cluster.coordination import is_first
from trainer.evals.subject import Findings
from trainer.events import is_number
from trainer.phase import Phase
from trainer.records.metrics import MetricsWriter, read_metrics


def write_findings(metrics: MetricsWriter, step: int, findings: Findings) -> dict[str, float]:
    """Record an evaluation's numbers as `eval/NAME` and its texts as `samples/I`; returns the numbers."""
    numbers = {f"eval/{name}": value for name, value in findings.numbers.items()}
    metrics.write(step, numbers)
    for i, sample in enumerate(findings.texts):
        metrics.text(step, f"samples/{i}", sample["text"], prompt=sample["prompt"])
    return numbers


def write_results(phase: Phase, *, before: dict[str, float], after: Findings) -> None:
    """Write results.json: held-out numbers before and after, samples, and a summary; then done.json, which
    says of which checkpoints.
    """
    if not is_first():
        return
    results = {
        "before": before,
        "after": after.numbers,
        "samples": after.texts,
        "summary": summary_of(phase),
    }
    write_json(phase.folder / "results.json", results)
    # Last: the launcher adds what the phase was made after.
    write_json(phase.folder / DONE, ending_of(phase.folder))


def summary_of(phase: Phase) -> dict[str, Any]:
    """Medians of throughput over the steps, their number and seconds, goodput, and counts of bad steps."""
    rows = [row for row in read_metrics(phase.folder) if "time/step_s" in row]
    summary: dict[str, Any] = {}
    for name in ("tokens_per_s", "flops_per_s", "mfu", "hfu"):
        values = [row.get(f"throughput/{name}") for row in rows]
        known_values = [value for value in values if is_number(value)]
        # The median: the first step after each start compiles, and would distort a mean. None is
        # known where all rows of the phase were lost, and no share of a peak on CPUs.
        if known_values:
            summary[name] = statistics.median(known_values)
    summary["steps"] = phase.run.steps
    # over all starts of the phase: their rows are all in the file
    summary["seconds"] = sum(row["time/step_s"] for row in rows if is_number(row["time/step_s"]))
    summary["parameters"] = n_params(phase.params["policy"])
    fractions = [row["goodput/frac"] for row in rows if "goodput/frac" in row]
    # the last value is for the whole phase, restarts included
    if fractions:
        summary["goodput"] = fractions[-1]
    for name in ("skipped", "spikes", "rollbacks"):
        # left out when 0, which is the normal case
        if rows and (count := rows[-1].get(f"guard/{name}")):
            summary[name] = count
    return summary
