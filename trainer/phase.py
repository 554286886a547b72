"""A Run on devices: model, layouts, state and checkpoints. Call under `jax.set_mesh`."""

from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import optax
from jax.sharding import AbstractMesh

from data_pipeline.settings import digest
from data_pipeline.tokenizers.tokenizer import Tokenizer
from model.api import Model, Params, key_of, leaf_name
from model.mesh import check_sizes, undivided
from model.size import n_params
from trainer.batches.layout import Layout
from trainer.checkpoints.checkpointer import Checkpointer
from trainer.checkpoints.finished import check_tokenizer
from trainer.checkpoints.load import frozen_params, load_params, parent_folder, placed
from trainer.cluster.coordination import is_first
from trainer.events import append_event
from trainer.following import no_progress
from trainer.heads import fitted
from trainer.identity import architecture_difference
from trainer.models import adaptation_of, models_of
from trainer.objective import Policies
from trainer.offload import at_rest, placed_at_rest
from trainer.optimizers.common.chain import averaged
from trainer.optimizers.common.mup import scaled_at_birth
from trainer.run import Run
from trainer.state import TrainState, new_state

# Events of every run: they go to events.jsonl, but are not printed.
ROUTINE = ("saved", "start", "end", "placed")


class Phase:
    """A `run` built on `mesh`: models, optimizer, layouts, tokenizer and checkpoints.

    `folder` is the phase's own inside `job_folder`; `say` prints a line for the user,
    `progress` shows a bar for work that takes long.

    Raises:
        ValueError: a size does not divide over the mesh, or the tokenizer has more entries than the
            architecture.
    """

    def __init__(
        self,
        run: Run,
        folder: Path,
        job_folder: Path,
        mesh: jax.sharding.Mesh,
        say: Callable[[str], None] = print,
        progress: Callable[..., Any] = no_progress,
    ):
        self.run = run
        self.folder = folder
        self.job_folder = job_folder
        self.mesh = mesh
        self.say = say
        self.progress = progress
        self.serialized = run.model_dump(mode="json")
        self.models = models_of(run)
        self.model = self.models["policy"]
        self.adaptation = adaptation_of(run)
        self.tx = run.optimizer.chain(run.steps)
        self.layout = Layout(run.objective.batch_type, run.data.sizes(), mesh, run.micro_batches)
        check_tokenizer(job_folder / run.tokenizer)
        self.tokenizer = Tokenizer(job_folder / run.tokenizer)
        # XLA raises no error for an index out of bounds: a token id without a row in the embedding
        # would silently train wrong numbers.
        if self.tokenizer.vocab_size > run.architecture.vocab_size:
            path = job_folder / run.tokenizer
            rule = f"is less than the {self.tokenizer.vocab_size} entries of {path}"
            raise ValueError(
                f"architecture.vocab_size={run.architecture.vocab_size} {rule}; raise it"
            )
        # Shapes, not arrays: a run that cannot work is refused before any memory is allocated.
        # `params` are the merged parameters of each model, trained or frozen: FLOPs depend on all of them.
        self.params = {role: param_shapes(model, mesh) for role, model in self.models.items()}
        self.shapes = state_shapes(run, self.model, self.tx, mesh)

    def event(self, name: str, step: int, /, **what: Any) -> None:
        """Append to events.jsonl what happened, and print it unless it is ROUTINE."""
        if is_first():
            append_event(self.folder, name, step, **what)
        if name not in ROUTINE:
            details = ", ".join(f"{key} {value}" for key, value in what.items())
            self.say(f"  {name.replace('_', ' ')} at step {step}: {details}")

    def describe(self) -> str:
        """One line: the architecture, its number of parameters, the compute dtype and the mesh."""
        axes = (
            ", ".join(f"{axis}={size}" for axis, size in self.mesh.shape.items() if size > 1)
            or "1 device"
        )
        kind, compute = type(self.run.architecture).__name__, self.run.precision.compute
        return f"{kind} of {n_params(self.params['policy']):,} parameters, {compute}, on {axes}"

    @cached_property
    def checkpointer(self) -> Checkpointer:
        """The checkpointer of the phase's folder, made on first use."""
        rounds = self.run.execution.pipeline.rounds
        return Checkpointer(self.folder, self.run.checkpoint, rounds=rounds, event=self.event)

    def resumes(self) -> bool:
        """Whether the phase resumes from a checkpoint.

        The first call verifies the newest checkpoint, which hashes it, and sets damaged ones aside. If there
        is none, whatever else the folder holds is left over from another run and is ignored.

        Raises:
            ValueError: there were checkpoints, and all of them are damaged.
        """
        return self._resumes

    @cached_property
    def _resumes(self) -> bool:
        if self.checkpointer.verify_latest() is not None:
            return True
        damaged = sorted(path.name for path in self.checkpointer.folder.glob("*.damaged"))
        if damaged:
            names = ", ".join(damaged)
            where = f"{self.checkpointer.folder} holds damaged checkpoints alone ({names})"
            remedy = "remove them to begin the phase anew, or restore an undamaged copy of one"
            raise ValueError(f"{where}; {remedy}")
        return False

    def state(self) -> TrainState:
        """The state of the newest undamaged checkpoint, or a new state if there is none.

        Raises:
            ValueError: there are checkpoints, and all of them are damaged.
        """
        if not self.resumes():
            return self._new_state()
        # A checkpoint that passed verification is only now read, and may still prove damaged: then an older
        # one is taken.
        restored = self.checkpointer.restore_newest(self._shapes_at_rest())
        if restored is None:
            where = f"{self.checkpointer.folder} holds damaged checkpoints alone"
            raise ValueError(f"{where}; remove them to begin the phase anew")
        return restored[1]

    def restore(self, limit: int) -> tuple[int, TrainState] | None:
        """(step, state) of the newest undamaged checkpoint up to step `limit`; None if there is none."""
        return self.checkpointer.restore_newest(self._shapes_at_rest(), limit=limit)

    def load_others(self) -> dict[str, Params]:
        """The parameters of all roles but the policy, at rest on the mesh; loaded and verified by the first
        call. No step changes them, and this phase's checkpoints do not hold them.
        """
        return self._others

    @cached_property
    def _others(self) -> dict[str, Params]:
        return {name: role_params(self.run, name, self.job_folder) for name in self.run.roles}

    def first_policies(self) -> Policies:
        """Compute or load the models as they are before the first step."""
        make = initial_state(self.run, self.model, self.tx)
        # XLA drops what the merged parameters do not depend on: the moments of this new state are never
        # allocated, while the real state is in memory.
        merged = jax.jit(lambda key, params: self.merged(make(key, params)))
        params = first_params(self.run, self.model, self.job_folder)
        return self.policies(merged(jax.random.key(self.run.seed), params))

    def first_policy_digest(self) -> str:
        """16 hex digits of the settings that the first policies depend on."""
        # What computes them, and from which numbers; not how they are trained.
        fields = ("architecture", "adaptation", "precision", "start_from", "roles", "seed")
        made_by = {field: self.serialized[field] for field in fields}
        return digest([made_by, self.run.optimizer.mup_base_width])

    def policies(self, params: Params) -> Policies:
        """All roles, with these parameters of the policy."""
        params_of = {"policy": params, **self.load_others()}
        return {role: (model, params_of[role]) for role, model in self.models.items()}

    def merged(self, state: TrainState) -> Params:
        """The parameters of the policy as the next step reads them."""
        return self.adaptation.merge(state.trainable, state.frozen)

    def evaluated(self, state: TrainState) -> Params:
        """The parameters that evaluations read: the averaged ones, where the optimizer averages."""
        # Only trainable parameters have an average: frozen ones never change.
        return self.adaptation.merge(averaged(state.opt_state.inner, state.trainable), state.frozen)

    def _new_state(self) -> TrainState:
        run = self.run
        # One program draws, splits, lays out and offloads the state: no device ever holds an unsharded array.
        params = first_params(run, self.model, self.job_folder)
        make = initial_state(run, self.model, self.tx)
        offloaded = jax.jit(lambda key, params: at_rest(make(key, params), run.execution.offload))
        return offloaded(jax.random.key(run.seed), params)

    def _shapes_at_rest(self) -> TrainState:
        """Shapes of the state with its layouts between steps; the frozen parameters as arrays, computed
        again, since no checkpoint holds them.
        """
        shapes = placed_at_rest(placed(self.shapes), self.run.execution.offload)
        if not jax.tree.leaves(shapes.frozen):
            return shapes
        first = first_params(self.run, self.model, self.job_folder)
        key = jax.random.key(self.run.seed)
        return shapes._replace(frozen=frozen_params(self.model, self.adaptation, key, first))


def initial_state(
    run: Run, model: Model, tx: optax.GradientTransformation
) -> Callable[..., TrainState]:
    """(key, params or None) -> state before step 1; call it under jit."""
    rounds = run.execution.pipeline.rounds
    return partial(new_state, model, adaptation_of(run), tx, guard=run.guard, rounds=rounds)


def param_shapes(model: Model, mesh: jax.sharding.Mesh | AbstractMesh) -> Params:
    """Shapes of a model's parameters, without layouts.

    Raises:
        ValueError: a size does not divide over the mesh.
    """
    # Traced as if nothing were divided: under the mesh JAX would raise first, and name no parameter.
    with undivided():
        shapes = jax.eval_shape(lambda: model.init(jax.random.key(0)))
    _check_divisible(shapes, mesh)
    return shapes


def state_shapes(
    run: Run, model: Model, tx: optax.GradientTransformation, mesh: jax.sharding.Mesh
) -> TrainState:
    """Shapes of the state before step 1, in their layouts. Call under the mesh.

    Raises:
        ValueError: a size of what is trained does not divide over the mesh.
    """
    adaptation = adaptation_of(run)

    def trainable() -> Params:
        key = jax.random.key(0)
        return adaptation.split(model.init(key), key)[0]

    # Asked beside `param_shapes`: a factor of an adapter may be divided along a letter that its
    # matrix does not divide, as b_RD2 of w_DD2 is.
    with undivided():
        shapes = jax.eval_shape(trainable)
    _check_divisible(shapes, mesh)
    key = jax.eval_shape(lambda: jax.random.key(run.seed))
    return jax.eval_shape(initial_state(run, model, tx), key)


def _check_divisible(shapes: Params, mesh: jax.sharding.Mesh | AbstractMesh) -> None:
    leaves = jax.tree.leaves_with_path(shapes)
    sizes = {leaf_name(path): leaf.shape for path, leaf in leaves}
    if problems := check_sizes(sizes, mesh):
        raise ValueError("; ".join(problems))


def first_params(run: Run, model: Model, job_folder: Path) -> Params | None:
    """The parameters that training starts from, or None where the model's own `init` draws them.

    They are loaded from `run.start_from` (a phase of the job or any phase's folder), with the objective's
    heads added, or drawn and scaled where the optimizer uses muP.

    Raises:
        ValueError: they are of another architecture, or muP cannot scale them.
    """
    if run.start_from is not None:
        where = f"start_from={run.start_from}"
        params = _loaded(run, run.start_from, run.architecture, job_folder, where)
        return fitted(params, model, jax.random.key(run.seed), run.objective.heads)
    base_width = run.optimizer.mup_base_width
    if base_width is None:
        return None

    def scaled(key: jax.Array) -> Params:
        # The key that `new_state` would use, so that muP scales the very values drawn without it.
        return scaled_at_birth(model.init(key_of(key, "init")), base_width)

    return jax.jit(scaled)(jax.random.key(run.seed))


def role_params(run: Run, name: str, job_folder: Path) -> Params:
    """Load the parameters of a role of `run.roles`.

    Raises:
        ValueError: they are of another architecture.
    """
    role = run.roles[name]
    where = f"roles.{name}.start_from={role.start_from}"
    return _loaded(run, role.start_from, role.architecture or run.architecture, job_folder, where)


def _loaded(run: Run, start_from: str, architecture: Any, job_folder: Path, where: str) -> Params:
    """Load the parameters of a phase of the job, or of any phase's folder; `where` is the field's name in an
    error.
    """
    loaded = load_params(
        parent_folder(start_from, job_folder), rounds=run.execution.pipeline.rounds
    )
    if loaded.architecture != architecture:
        difference = architecture_difference(loaded.architecture, architecture, where)
        owner = where.partition("start_from=")[0]  # "", or "roles.NAME."
        raise ValueError(f"{owner}architecture {difference}; make them the same")
    return loaded.params
