"""The last evaluation among the metrics: one row, however often a finished phase is taken up again."""

from pathlib import Path

from trainer.evals.subject import Findings
from trainer.records.metrics import MetricsWriter, read_metrics
from trainer.records.results import write_last_findings


def life(folder: Path, start_step: int, findings: Findings) -> list[dict[str, float]]:
    """The rows after a phase of three steps, taken up after `start_step`, has come to its end."""
    metrics = MetricsWriter(folder, start_step)
    for step in range(start_step + 1, 4):
        metrics.write(step, {"loss/train": 1.0})
    metrics.flush()
    write_last_findings(metrics, folder, 3, findings)
    metrics.close()
    return read_metrics(folder)


def test_the_last_evaluation_is_recorded_once(tmp_path):
    findings = Findings({"web/loss": 2.0}, [{"prompt": "a", "text": "b"}])
    rows = life(tmp_path, 0, findings)
    samples = (tmp_path / "samples.jsonl").read_bytes()
    assert [row.get("eval/web/loss") for row in rows] == [None, None, None, 2.0]
    assert life(tmp_path, 3, findings) == rows
    assert (tmp_path / "samples.jsonl").read_bytes() == samples
    more = life(tmp_path, 3, Findings({"web/loss": 2.0, "code/loss": 3.0}, []))
    assert more[:-1] == rows and more[-1]["eval/code/loss"] == 3.0
