"""The state that a phase begins with."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import optax

from model.api import Model, Params, key_of
from trainer.checkpoints.load import load_params, placed
from trainer.offload import at_rest, placed_at_rest
from trainer.optimizers.common.mup import scaled_at_birth
from trainer.state import TrainState, new_state


def birth_of(run: Any, model: Model, tx: optax.GradientTransformation) -> Callable[..., TrainState]:
    """(key, parameters or None) -> the state before the first step; to be traced."""
    return partial(new_state, model, run.adaptation, tx, guard=run.guard)


def new_state_of(run: Any, model: Model, tx: optax.GradientTransformation, job_folder: Path) -> TrainState:
    """That state on the mesh, from `run.start_from`, a phase of the job or any phase's folder, or from
    scratch.

    Raises:
        ValueError: the parameters are of another architecture, or cannot be scaled as the optimizer wants it.
    """
    birth, offload = birth_of(run, model, tx), run.execution.offload
    born = jax.jit(lambda key, params: at_rest(birth(key, params), offload))
    return born(jax.random.key(run.seed), _params(run, model, job_folder))


def wanted_of(run: Any, shapes: TrainState) -> TrainState:
    """Shapes of a state, with the layouts in which it lies between steps."""
    return placed_at_rest(placed(shapes), run.execution.offload)


def _params(run: Any, model: Model, job_folder: Path) -> Params | None:
    """None for the model's own from scratch."""
    if run.start_from is not None:
        return _loaded(run, job_folder / run.start_from)
    base_width = run.optimizer.mup_base_width
    if base_width is None:
        return None
    return jax.jit(lambda key: scaled_at_birth(model.init(key_of(key, "init")), base_width))(
        jax.random.key(run.seed)
    )


def _loaded(run: Any, parent: Path) -> Params:
    loaded = load_params(
        parent if parent.exists() else Path(run.start_from), rounds=run.execution.pipeline.rounds
    )
    if loaded.architecture != run.architecture:
        raise ValueError(
            f"start_from={run.start_from} has another architecture ({loaded.architecture}); make this run's the same"
        )
    return loaded.params
