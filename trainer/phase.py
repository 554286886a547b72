"""A Run on devices: model, layouts, state and checkpoints. Call under `jax.set_mesh`."""

from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax

from data_pipeline.tokenizer import Tokenizer
from model.api import Params
from model.sharding import check_sizes, undivided
from model.size import n_params
from trainer.checkpoint import Checkpointer
from trainer.identity import check_identity
from trainer.load import load_params, placed
from trainer.offload import at_rest, placed_at_rest
from trainer.source import Layout
from trainer.state import TrainState, new_state


class Phase:
    """What `run` is on `mesh`; `folder` is the phase's own, `job_folder` that of the whole job.

    Raises:
        ValueError: a size does not divide over the mesh, or the tokenizer has more entries than the architecture.
    """

    def __init__(self, run: Any, folder: Path, job_folder: Path, mesh: jax.sharding.Mesh):
        self.run, self.folder, self.job_folder, self.mesh = run, folder, job_folder, mesh
        self.serialized = run.model_dump(mode="json")
        self.model = run.architecture.build(run.precision, run.execution)
        self.tx = run.optimizer.chain(run.steps)
        self.layout = Layout.of(run.objective.batch_type, run.data.fields(), mesh, micro_batches=run.micro_batches)
        self.tokenizer = Tokenizer(job_folder / run.tokenizer)
        if self.tokenizer.vocab_size > run.architecture.vocab_size:
            raise ValueError(
                f"architecture.vocab_size={run.architecture.vocab_size} is less than the {self.tokenizer.vocab_size} entries of "
                f"{job_folder / run.tokenizer}; raise it"
            )
        with undivided():  # JAX would refuse a size that does not divide, but not by the parameter's name
            leaves = jax.tree.leaves_with_path(jax.eval_shape(lambda: self.model.init(jax.random.key(run.seed))))
        names = {jax.tree_util.keystr(path, simple=True, separator="."): leaf.shape for path, leaf in leaves}
        if problems := check_sizes(names, mesh):
            raise ValueError("; ".join(problems))
        self.birth = partial(new_state, self.model, run.adaptation, self.tx)
        self.shapes = jax.eval_shape(self.birth, jax.random.key(run.seed))

    @cached_property
    def checkpointer(self) -> Checkpointer:
        """The phase's checkpoints."""
        return Checkpointer(self.folder, self.run.checkpoint, rounds=self.run.execution.pipeline.rounds)

    @cached_property
    def resumed(self) -> bool:
        """Whether the phase goes on from a checkpoint; what else lies in its folder counts only then."""
        return self.checkpointer.latest() is not None

    def check_identity(self, allow_change: Sequence[str]) -> list[str]:
        """Free differences from the run that wrote the newest checkpoint. Raises ValueError if it was another run."""
        if not self.resumed:
            return []
        saved = self.checkpointer.read_json(self.checkpointer.latest(), "run")
        return check_identity(saved, self.serialized, allow_change=allow_change, folder=self.folder)

    @property
    def step_settings(self) -> dict[str, Any]:
        """What the step is told beside its parts."""
        return {"micro_batches": self.run.micro_batches, "offload": self.run.execution.offload}

    def describe(self) -> str:
        """One line: what is trained, and where."""
        axes = ", ".join(f"{axis}={size}" for axis, size in self.mesh.shape.items() if size > 1) or "1 device"
        kind, compute = type(self.run.architecture).__name__, self.run.precision.compute
        return f"{kind} of {n_params(self.shapes.trainable):,} parameters, {compute}, on {axes}"

    def state(self) -> TrainState:
        """The newest checkpoint's state, or a new one."""
        if not self.resumed:
            return self._new_state()
        wanted = placed_at_rest(placed(self.shapes), self.run.execution.offload)
        return self.checkpointer.restore(self.checkpointer.latest(), wanted)

    def first_policy(self) -> Params:
        """The parameters before the first step."""
        return self.policy(self._new_state())

    def policy(self, state: TrainState) -> Params:
        """The parameters that the model reads."""
        return self.run.adaptation.merge(state.trainable, state.frozen)

    def _new_state(self) -> TrainState:
        born = jax.jit(lambda key, params: at_rest(self.birth(key, params), self.run.execution.offload))
        return born(jax.random.key(self.run.seed), self._start_params())

    def _start_params(self) -> Params | None:
        """The parameters of `start_from`; None to begin from scratch."""
        if self.run.start_from is None:
            return None
        parent = self.job_folder / self.run.start_from
        rounds = self.run.execution.pipeline.rounds
        loaded = load_params(parent if parent.exists() else Path(self.run.start_from), rounds=rounds)
        if loaded.architecture != self.run.architecture:
            raise ValueError(f"start_from={self.run.start_from} has another architecture ({loaded.architecture}); make this run's the same")
        return loaded.params
