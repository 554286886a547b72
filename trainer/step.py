"""One optimizer step: the same for every phase."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from model.adapt import Adaptation
from model.api import Model
from model.sharding import letters_of, platform, reshape
from trainer.objective import Loss, Objective
from trainer.state import TrainState

COMPILER_OPTIONS = {
    # else libtpu makes an all-reduce and a slice of every reduce-scatter over a whole torus: twice the bytes (docs/planning.md)
    "tpu": {
        "xla_tpu_enable_sparse_core_collective_offload_reduce_scatter": "true",
        "xla_tpu_enable_sparse_core_collective_offload_nd_reduce_scatter": "true",
    },
}


def make_step(
    model: Model, objective: Objective, adaptation: Adaptation, tx: optax.GradientTransformation, *, micro_batches: int
) -> Callable[[TrainState, Any], tuple[TrainState, dict[str, Any]]]:
    """The compiled step: denominators -> merge -> loss and gradient by micro-batch, added up -> update -> after_step."""

    def step(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Any]]:
        denominators = objective.denominators(batch)
        key = jax.random.fold_in(state.key, state.step)

        def loss_of(trainable: Any, rows: Any, key: Any) -> tuple[Any, Loss]:
            policies = {"policy": (model, adaptation.merge(trainable, state.frozen))}
            loss = objective.loss(policies, rows, denominators, key)
            return loss.total, loss

        def gradient_of(part: tuple[Any, Any]) -> tuple[Loss, Any]:
            i, rows = part
            (_, loss), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.trainable, rows, jax.random.fold_in(key, i))
            return loss, gradient

        loss, gradient = added_up(gradient_of, (jnp.arange(micro_batches), split_rows(batch, micro_batches)))
        updates, opt_state = tx.update(gradient, state.opt_state, state.trainable)
        trainable = model.after_step(optax.apply_updates(state.trainable, updates), loss.aux)
        metrics = {**loss.metrics, "loss/train": (loss.total, 1.0), "optimizer/grad_norm": (optax.tree.norm(gradient), 1.0)}
        return TrainState(state.step + 1, trainable, state.frozen, opt_state, state.key), metrics

    return jax.jit(step, donate_argnums=0, compiler_options=COMPILER_OPTIONS.get(platform()))


def added_up(function: Callable[[Any], Any], parts: tuple[Any, ...]) -> Any:
    """The sum of `function` over the leading dimension of `parts`; a single part needs no second copy of the gradients."""
    first = jax.tree.map(lambda x: x[0], parts)
    if len(parts[0]) == 1:
        return function(first)
    zero = zeros_of(jax.eval_shape(function, first))
    return jax.lax.scan(lambda total, part: (jax.tree.map(jnp.add, total, function(part)), None), zero, parts)[0]


def zeros_of(shapes: Any) -> Any:
    """Zeros of these shapes, in their layouts."""

    def zeros(s: jax.ShapeDtypeStruct) -> jax.Array:
        layout = s.sharding.spec if s.sharding else None  # a constant, such as a metric's weight of 1.0, has no layout
        return jnp.zeros(s.shape, s.dtype, out_sharding=layout)

    return jax.tree.map(zeros, shapes)


def split_rows(batch: Any, parts: int) -> Any:
    """[B, …] -> [parts, B/parts, …]; part i is rows i::parts of each shard, so that no row moves between devices."""

    def split(x: Any, letters: str) -> Any:
        B, *rest = x.shape
        return jnp.moveaxis(reshape(x, (B // parts, parts, *rest), f"B.{letters[1:]}"), 1, 0)

    return type(batch)(*(split(x, letters_of(name)) for name, x in zip(batch._fields, batch, strict=True)))
