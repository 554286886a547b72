"""TrainState, what a training step takes and returns, and how it is made before the first step."""

from typing import NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, Key

from model.adapt import Adaptation
from model.api import Model, Params, key_of
from trainer.guard import STANDARD, Guard, Guarded


class TrainState(NamedTuple):
    """What a step takes and returns: `step` counts the steps made; `key` never changes, every use folds in a
    name and the step.
    """

    step: Int[Array, ""]
    trainable: Params
    frozen: Params
    opt_state: Guarded
    key: Key[Array, ""]


def new_state(
    model: Model,
    adaptation: Adaptation,
    tx: optax.GradientTransformation,
    key: Key[Array, ""],
    params: Params | None = None,
    *,
    guard: Guard = STANDARD,
    rounds: int = 1,
) -> TrainState:
    """The state before the first step, from scratch or from `params` of another phase; call it under jit and
    `jax.set_mesh`. `rounds` are those of the model's pipeline, which order the layers in memory.
    """
    params = model.init(key_of(key, "init")) if params is None else params
    # Keys by name: an adapter is drawn the same whether the model was drawn or loaded.
    trainable, frozen = adaptation.split(params, key_of(key, "adapt"), rounds=rounds)
    return TrainState(
        jnp.zeros((), jnp.int32),
        trainable,
        frozen,
        # Moments of the trainable parameters alone: that is where an adapter saves most memory.
        Guarded(guard.new_history(), tx.init(trainable)),
        key,
    )
