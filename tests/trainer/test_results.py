"""The last evaluation among the metrics: one row, however often a finished phase is taken up again."""

import json
from pathlib import Path

from trainer.evals.subject import Findings
from trainer.records.metrics import SAMPLES_FILE, MetricsWriter, read_metrics
from trainer.records.results import write_findings


def life(folder: Path, start_step: int, findings: Findings) -> list[float | None]:
    """The loss of evaluations in the rows after a phase of three steps, taken up after `start_step`, has come
    to its end.
    """
    metrics = MetricsWriter(folder, start_step, evaluates_again=start_step == 3)
    for step in range(start_step + 1, 4):
        metrics.write(step, {"loss/train": 1.0})
    write_findings(metrics, 3, findings)
    metrics.close()
    return [row.get("eval/web/loss") for row in read_metrics(folder)]


def test_the_last_evaluation_is_recorded_once(tmp_path):
    findings = Findings({"web/loss": 2.0}, [{"prompt": "a", "text": "b"}])
    for start_step in (0, 3, 2, 3):
        assert life(tmp_path, start_step, findings) == [None, None, None, 2.0]
        samples = (tmp_path / SAMPLES_FILE).read_text().splitlines()
        assert [json.loads(line)["text"] for line in samples] == ["b"]
    # With other evaluations than then, those of now.
    assert life(tmp_path, 3, Findings({"web/loss": 4.0, "code/loss": 3.0}, []))[-1] == 4.0
    assert read_metrics(tmp_path)[-1]["eval/code/loss"] == 3.0
