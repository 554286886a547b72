"""A Run on devices: its parts, built when they are first needed. Call under `jax.set_mesh`."""

import json
import statistics
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax

from data_pipeline.files import write_json
from data_pipeline.loader import RowSequence
from data_pipeline.tokenizer import Tokenizer
from model.api import Params
from model.sharding import check_sizes
from model.size import flops_per_token_of, n_params
from trainer.checkpoint import Checkpointer
from trainer.evaluate import Findings, Subject
from trainer.identity import check_identity
from trainer.load import load_params, placed
from trainer.loop import Parts
from trainer.metrics import MetricsWriter, read_metrics
from trainer.profile import peak_flops
from trainer.reference import add_reference
from trainer.source import Layout, ShardSource
from trainer.state import TrainState, new_state
from trainer.step import make_step


class Phase:
    """Everything that `run` needs on `mesh`; `folder` is the phase's own, `job_folder` that of the whole job.

    Raises:
        ValueError: a size does not divide over the mesh, or the tokenizer has more entries than the architecture.
    """

    def __init__(self, run: Any, folder: Path, job_folder: Path, mesh: jax.sharding.Mesh):
        self.run, self.folder, self.job_folder, self.mesh = run, folder, job_folder, mesh
        self.serialized = run.model_dump(mode="json")
        self.model = run.architecture.build(run.precision)
        self.tx = run.optimizer.chain(run.steps)
        self.layout = Layout.of(run.objective.batch_type, run.data.fields(), mesh)
        self.tokenizer = Tokenizer(job_folder / run.tokenizer)
        if self.tokenizer.vocab_size > run.architecture.vocab_size:
            raise ValueError(
                f"architecture.vocab_size={run.architecture.vocab_size} is less than the {self.tokenizer.vocab_size} entries of "
                f"{job_folder / run.tokenizer}; raise it"
            )
        self.birth = partial(new_state, self.model, run.adaptation, self.tx)
        self.shapes = jax.eval_shape(self.birth, jax.random.key(run.seed))
        names = {jax.tree_util.keystr(path, simple=True, separator="."): s.shape for path, s in jax.tree.leaves_with_path(self.shapes.trainable)}
        if problems := check_sizes(names, mesh):
            raise ValueError("; ".join(problems))

    @cached_property
    def checkpointer(self) -> Checkpointer:
        """The phase's checkpoints."""
        return Checkpointer(self.folder, self.run.checkpoint)

    def check_identity(self, allow_change: Sequence[str]) -> list[str]:
        """Free differences from the run that wrote the newest checkpoint. Raises ValueError if it was another run."""
        step = self.checkpointer.latest()
        if step is None:
            return []
        return check_identity(self.checkpointer.read_json(step, "run"), self.serialized, allow_change=allow_change, folder=self.folder)

    def describe(self) -> str:
        """One line: what is trained, and where."""
        axes = ", ".join(f"{axis}={size}" for axis, size in self.mesh.shape.items() if size > 1) or "1 device"
        kind, compute = type(self.run.architecture).__name__, self.run.precision.compute
        return f"{kind} of {n_params(self.shapes.trainable) / 1e6:.1f} M parameters, {compute}, on {axes}"

    def start_params(self) -> Params | None:
        """The parameters of `start_from`; None to begin from scratch."""
        if self.run.start_from is None:
            return None
        parent = self.job_folder / self.run.start_from
        loaded = load_params(parent if parent.exists() else Path(self.run.start_from))
        if loaded.architecture != self.run.architecture:
            raise ValueError(f"start_from={self.run.start_from} has another architecture ({loaded.architecture}); make this run's the same")
        return loaded.params

    def state(self) -> TrainState:
        """The newest checkpoint's state, or a new one."""
        step = self.checkpointer.latest()
        if step is None:
            return jax.jit(self.birth)(jax.random.key(self.run.seed), self.start_params())
        return self.checkpointer.restore(step, placed(self.shapes))

    def _first_policy(self) -> Params:
        """The parameters before the first step."""
        state = jax.jit(self.birth)(jax.random.key(self.run.seed), self.start_params())
        return self.run.adaptation.merge(state.trainable, state.frozen)

    @cached_property
    def _measures(self) -> list[Any]:
        context = self.run.architecture.context
        subject = Subject(self.model, self.run.objective, self.mesh, self.folder, self.job_folder, self.tokenizer, context)
        return [eval_.open(subject, self._first_policy) for eval_ in self.run.evals]

    def evaluate(self, state: TrainState) -> Findings:
        """All evaluations of the present policy."""
        findings = [measure(self.run.adaptation.merge(state.trainable, state.frozen)) for measure in self._measures]
        numbers = {name: value for found in findings for name, value in found.numbers.items()}
        return Findings(numbers, [text for found in findings for text in found.texts])

    def before(self, state: TrainState) -> dict[str, float]:
        """What the evaluations gave before the first step; measured once, then kept in before.json."""
        kept = self.folder / "before.json"
        if kept.exists():
            return json.loads(kept.read_text())
        numbers = self.evaluate(state).numbers
        if jax.process_index() == 0:
            write_json(kept, numbers)
        return numbers

    def parts(self, metrics: MetricsWriter) -> Parts:
        """What the loop turns, its source standing where the newest checkpoint left it."""
        run, data = self.run, self.run.data
        sources = data.sources(self.job_folder)
        for rows in sources.values():
            add_reference(rows, run.objective, self.layout, self.model, self._first_policy, self.folder / "reference")
        source = ShardSource(RowSequence(sources, data.weights, run.seed), self.layout)
        if (step := self.checkpointer.latest()) is not None:
            source.set_state(self.checkpointer.read_json(step, "position"))
        params = self.shapes.trainable
        flops = flops_per_token_of(run.architecture, params, length=data.seq_len)
        return Parts(
            step=make_step(self.model, run.objective, run.adaptation, self.tx, micro_batches=run.micro_batches),
            source=source,
            checkpointer=self.checkpointer,
            metrics=metrics,
            learning_rate=run.optimizer.learning_rate(run.steps),
            evaluate=lambda state: {f"eval/{name}": value for name, value in self.evaluate(state).numbers.items()},
            evaluate_every=run.evaluate_every,
            tokens_per_step=data.batch_size * data.seq_len,
            peak_tokens_per_s=peak_flops(jax.devices()[0]) * self.mesh.size / flops,
            run=self.serialized,
        )

    def summary(self) -> dict[str, float]:
        """Medians over the steps of the phase, and its length."""
        rows = [row for row in read_metrics(self.folder) if "time/step_s" in row]
        medians = {name: statistics.median(row[f"throughput/{name}"] for row in rows) for name in ("tokens_per_s", "mfu")}
        seconds = sum(row["time/step_s"] for row in rows)
        return {**medians, "steps": self.run.steps, "seconds": seconds, "parameters": n_params(self.shapes.trainable)}
