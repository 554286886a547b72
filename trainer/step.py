"""One optimizer step: the same for every phase."""

from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import optax

from model.adapt import Adaptation
from model.api import Model
from model.sharding import letters_of, reshape
from trainer.compiler import compiler_options
from trainer.guard import STANDARD, Guard, Guarded, counts, kept_if
from trainer.objective import Loss, Objective
from trainer.offload import at_rest, to_device
from trainer.state import TrainState


def make_step(
    model: Model,
    objective: Objective,
    adaptation: Adaptation,
    tx: optax.GradientTransformation,
    *,
    micro_batches: int,
    offload: Collection[str] = (),
    guard: Guard = STANDARD,
    breakdown: Callable[[Any, Any], dict[str, Any]] = lambda targets, batch: {},
    watch: Callable[..., dict[str, Any]] = lambda step, **trees: {},
) -> Callable[[TrainState, Any], tuple[TrainState, dict[str, Any]]]:
    """The compiled step: denominators -> merge -> loss and gradient by micro-batch, added up -> update ->
    after_step -> guard.

    `offload` names what rests in host memory: the model fetches its weights itself, the update all that it
    reads. `breakdown` sums the loss of targets in further ways, `watch` looks at parameters, gradient and
    updates.
    """

    def step(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Any]]:
        denominators = objective.denominators(batch)
        key = jax.random.fold_in(state.key, state.step)

        def loss_of(trainable: Any, rows: Any, key: Any) -> tuple[Any, Loss]:
            policies = {"policy": (model, adaptation.merge(trainable, state.frozen))}
            loss = objective.loss(policies, rows, denominators, key)
            return loss.total, loss

        def gradient_of(part: tuple[Any, Any]) -> tuple[Loss, Any]:
            i, rows = part
            (_, loss), gradient = jax.value_and_grad(loss_of, has_aux=True)(
                state.trainable, rows, jax.random.fold_in(key, i)
            )
            loss = loss._replace(metrics=loss.metrics | breakdown(loss.targets, rows), targets=None)
            return loss, to_device(gradient, after=loss.total)

        parts = jnp.arange(micro_batches), split_rows(batch, micro_batches)
        zero = zeros_of(jax.eval_shape(gradient_of, jax.tree.map(lambda x: x[0], parts)))
        (loss, gradient), _ = jax.lax.scan(
            lambda total, part: (jax.tree.map(jnp.add, total, gradient_of(part)), None), zero, parts
        )
        norm = optax.tree.norm(gradient)
        healthy, history = guard.judge(state.opt_state.history, loss.total, norm)
        old = to_device((state.trainable, state.opt_state.inner), after=gradient)
        updates, inner = tx.update(gradient, old[1], old[0])
        new = model.after_step(optax.apply_updates(old[0], updates), loss.aux), inner
        trainable, inner = kept_if(healthy, new, old)
        metrics = {
            **loss.metrics,
            **counts(history),
            "loss/train": (loss.total, 1.0),
            "optimizer/grad_norm": (norm, 1.0),
        }
        seen = watch(state.step, params=old[0], gradient=gradient, updates=updates)
        state = TrainState(state.step + 1, trainable, state.frozen, Guarded(history, inner), state.key)
        return at_rest(state, offload), metrics | ({"watch": seen} if seen else {})

    return jax.jit(step, donate_argnums=0, compiler_options=compiler_options())


def zeros_of(shapes: Any) -> Any:
    """Zeros of these shapes, in their layouts."""

    def zeros(s: jax.ShapeDtypeStruct) -> jax.Array:
        layout = (
            s.sharding.spec if s.sharding else None
        )  # a constant, such as a metric's weight of 1.0, has no layout
        return jnp.zeros(s.shape, s.dtype, out_sharding=layout)

    return jax.tree.map(zeros, shapes)


def split_rows(batch: Any, parts: int) -> Any:
    """[B, …] -> [parts, B/parts, …]; part i is rows i::parts of each shard, so that no row moves between
    devices.
    """

    def split(x: Any, letters: str) -> Any:
        B, *rest = x.shape
        return jnp.moveaxis(reshape(x, (B // parts, parts, *rest), f"B.{letters[1:]}"), 1, 0)

    return type(batch)(*(split(x, letters_of(name)) for name, x in zip(batch._fields, batch, strict=True)))
