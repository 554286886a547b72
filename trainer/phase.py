"""A Run on devices: model, layouts, state and checkpoints. Call under `jax.set_mesh`."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import jax

from data_pipeline.tokenizers.tokenizer import Tokenizer
from model.api import Params, leaf_name
from model.sharding import check_sizes, undivided
from model.size import n_params
from trainer.batches.source import Layout
from trainer.checkpoints.checkpointer import Checkpointer
from trainer.events import append_event
from trainer.optimizers.common.chain import averaged
from trainer.start import birth_of, new_state_of, wanted_of
from trainer.state import TrainState

ROUTINE = ("saved", "start", "end", "placed")  # events that happen in every run


class Phase:
    """What `run` is on `mesh`; `folder` is the phase's own, `job_folder` that of the whole job; `say` is
    told what a person should know.

    Raises:
        ValueError: a size does not divide over the mesh, or the tokenizer has more entries than the
        architecture.
    """

    def __init__(
        self,
        run: Any,
        folder: Path,
        job_folder: Path,
        mesh: jax.sharding.Mesh,
        say: Callable[[str], None] = print,
    ):
        self.run, self.folder, self.job_folder, self.mesh, self._say = run, folder, job_folder, mesh, say
        self.serialized = run.model_dump(mode="json")
        self.model = run.architecture.build(run.precision, run.execution)
        self.tx = run.optimizer.chain(run.steps)
        self.layout = Layout.of(
            run.objective.batch_type, run.data.fields(), mesh, micro_batches=run.micro_batches
        )
        self.tokenizer = Tokenizer(job_folder / run.tokenizer)
        if self.tokenizer.vocab_size > run.architecture.vocab_size:
            raise ValueError(
                f"architecture.vocab_size={run.architecture.vocab_size} is less than the {self.tokenizer.vocab_size} entries of "
                f"{job_folder / run.tokenizer}; raise it"
            )
        with undivided():  # JAX would refuse a size that does not divide, but not by the parameter's name
            leaves = jax.tree.leaves_with_path(
                jax.eval_shape(lambda: self.model.init(jax.random.key(run.seed)))
            )
        names = {leaf_name(path): leaf.shape for path, leaf in leaves}
        if problems := check_sizes(names, mesh):
            raise ValueError("; ".join(problems))
        self.shapes = jax.eval_shape(birth_of(run, self.model, self.tx), jax.random.key(run.seed))

    def event(self, name: str, step: int, /, **what: Any) -> None:
        """Write down what happened, and tell it where it is no routine."""
        if jax.process_index() == 0:
            append_event(self.folder, name, step, **what)
        if name not in ROUTINE:
            self._say(
                f"  {name.replace('_', ' ')} at step {step}: "
                + ", ".join(f"{key} {value}" for key, value in what.items())
            )

    @cached_property
    def checkpointer(self) -> Checkpointer:
        """The phase's checkpoints."""
        return Checkpointer(
            self.folder, self.run.checkpoint, rounds=self.run.execution.pipeline.rounds, event=self.event
        )

    @cached_property
    def resumed(self) -> bool:
        """Whether the phase goes on from a checkpoint; what else lies in its folder counts only then.

        Raises:
            ValueError: there were checkpoints, and all of them are damaged.
        """
        if self.checkpointer.latest() is not None:
            return True
        damaged = sorted(path.name for path in self.checkpointer.folder.glob("*.damaged"))
        if damaged:
            where = f"{self.checkpointer.folder} holds damaged checkpoints alone ({', '.join(damaged)})"
            raise ValueError(f"{where}; remove them to begin the phase anew, or bring a whole one back")
        return False

    def describe(self) -> str:
        """One line: what is trained, and where."""
        axes = ", ".join(f"{axis}={size}" for axis, size in self.mesh.shape.items() if size > 1) or "1 device"
        kind, compute = type(self.run.architecture).__name__, self.run.precision.compute
        return f"{kind} of {n_params(self.shapes.trainable):,} parameters, {compute}, on {axes}"

    def state(self) -> TrainState:
        """The state of the newest checkpoint that is whole, or a new one.

        Raises:
            ValueError: there are checkpoints, and all of them are damaged.
        """
        found = self.checkpointer.newest(self._wanted) if self.resumed else None
        if self.resumed and found is None:
            raise ValueError(
                f"{self.checkpointer.folder} holds damaged checkpoints alone; remove them to begin the phase anew"
            )
        return found[1] if found else self._new_state()

    def restore(self, limit: int) -> tuple[int, TrainState] | None:
        """The newest checkpoint that is whole and not behind step `limit`, and its state."""
        return self.checkpointer.newest(self._wanted, limit=limit)

    @property
    def _wanted(self) -> TrainState:
        return wanted_of(self.run, self.shapes)

    def first_policy(self) -> Params:
        """The parameters before the first step."""
        return self.policy(self._new_state())

    def policy(self, state: TrainState) -> Params:
        """The parameters that evaluations read: the averaged ones, where the optimizer averages."""
        return self.run.adaptation.merge(averaged(state.opt_state.inner, state.trainable), state.frozen)

    def _new_state(self) -> TrainState:
        return new_state_of(self.run, self.model, self.tx, self.job_folder)
