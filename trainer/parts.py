"""What the loop turns, built from a phase."""

import statistics
from typing import Any

import jax

from data_pipeline.files import write_json
from data_pipeline.streaming.sequence import RowSequence
from model.size import flops_per_token_of, n_params
from trainer.loop import Parts
from trainer.measure import Measures
from trainer.metrics import MetricsWriter, read_metrics
from trainer.phase import Phase
from trainer.profile import peak_flops
from trainer.reference import add_reference
from trainer.source import ShardSource
from trainer.step import make_step
from trainer.subject import Findings


def parts_of(phase: Phase, measures: Measures, first: int) -> Parts:
    """Step, source and the rest; the source stands where the newest checkpoint left it, after `first` steps."""
    run, data = phase.run, phase.run.data
    flops = flops_per_token_of(run.architecture, phase.shapes.trainable, length=data.seq_len)
    return Parts(
        step=make_step(phase.model, run.objective, run.adaptation, phase.tx, **phase.step_settings),
        source=source_of(phase),
        checkpointer=phase.checkpointer,
        metrics=MetricsWriter(phase.folder, first, active=jax.process_index() == 0),
        learning_rate=run.optimizer.learning_rate(run.steps),
        evaluate=lambda state: {f"eval/{name}": value for name, value in measures(state).numbers.items()},
        evaluate_every=run.evaluate_every,
        tokens_per_step=data.batch_size * data.seq_len,
        peak_tokens_per_s=peak_flops(jax.devices()[0]) * phase.mesh.size / flops,
        run=phase.serialized,
    )


def source_of(phase: Phase) -> ShardSource:
    """The phase's batches, with what its first policy has to say of them."""
    run, sources = phase.run, phase.run.data.sources(phase.job_folder)
    for rows in sources.values():
        where = {"folder": phase.folder / "reference", "resumed": phase.resumed}
        add_reference(rows, run.objective, phase.layout, phase.model, phase.first_policy, **where)
    rows = RowSequence(sources, run.data.weights, run.seed, run.data.schedule)
    if rows.n_rows is not None and rows.n_rows < run.steps * run.data.batch_size:
        wanted = f"steps={run.steps} of batch_size={run.data.batch_size} need {run.steps * run.data.batch_size} rows"
        raise ValueError(f"{wanted}, data.schedule.max_epochs allows {rows.n_rows}; lower steps or raise it")
    source = ShardSource(rows, phase.layout, processes=run.data.processes)
    if phase.resumed:
        source.set_state(phase.checkpointer.read_json(phase.checkpointer.latest(), "position"))
    return source


def write_results(phase: Phase, parts: Parts, *, before: dict[str, float], after: Findings) -> None:
    """Wait for the last checkpoint, then say what the phase did: metrics, sample texts, results.json."""
    parts.metrics.write(phase.run.steps, {f"eval/{name}": value for name, value in after.numbers.items()})
    for i, sample in enumerate(after.texts):
        parts.metrics.text(phase.run.steps, f"samples/{i}", f"{sample['prompt']}\n\n{sample['text']}")
    parts.checkpointer.close()
    if jax.process_index() == 0:
        results = {"before": before, "after": after.numbers, "samples": after.texts, "summary": summary_of(phase)}
        write_json(phase.folder / "results.json", results)


def summary_of(phase: Phase) -> dict[str, Any]:
    """Medians over the steps of the phase, and its length."""
    rows = [row for row in read_metrics(phase.folder) if "time/step_s" in row]
    medians = {name: statistics.median(row[f"throughput/{name}"] for row in rows) for name in ("tokens_per_s", "mfu")}
    seconds = sum(row["time/step_s"] for row in rows)
    return {**medians, "steps": phase.run.steps, "seconds": seconds, "parameters": n_params(phase.shapes.trainable)}
