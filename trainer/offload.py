"""State that rests in the memory of the host between steps, and comes to the devices for its part of a
step.
"""

from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import optax

from model.sharding import letters_of, on_host
from trainer.state import TrainState


def at_rest(state: TrainState, offload: Collection[str]) -> TrainState:
    """The parts named by `offload` in host memory; scalars stay, they weigh nothing."""
    return _moved(state, offload, lambda x: jax.device_put(x, jax.memory.Space.Host) if x.ndim else x)


def placed_at_rest(shapes: TrainState, offload: Collection[str]) -> TrainState:
    """Shapes with layouts on devices, as `at_rest` leaves the arrays."""

    def away(s: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return (
            jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=s.sharding.with_memory_kind("pinned_host"))
            if s.ndim
            else s
        )

    return _moved(shapes, offload, away)


def _moved(state: TrainState, offload: Collection[str], away: Callable[[Any], Any]) -> TrainState:
    """The guard's history stays: what is computed of numbers on the host is computed by the host."""
    if "params" in offload:
        state = state._replace(trainable=jax.tree.map(away, state.trainable))
    if "optimizer" in offload:
        state = state._replace(
            opt_state=state.opt_state._replace(inner=jax.tree.map(away, state.opt_state.inner))
        )
    return state


def to_device(tree: Any, *, after: Any) -> Any:
    """What rests on the host, fetched once `after` is computed; stacks come layer by layer.

    A compiler that sees no reason to wait begins all copies with the step, when there is least room for
    them: what is fetched therefore depends on a zero that is known only when `after` is.
    """
    zero = (optax.tree.norm(after) < 0).astype(jnp.int32)

    def one(path: Any, x: Any) -> Any:
        if not on_host(x):
            return x
        if not letters_of(str(getattr(path[-1], "key", ""))).startswith("N"):
            return jax.device_put(x, jax.memory.Space.Device)

        def layer(_: None, i: Any) -> tuple[None, Any]:
            return None, jax.device_put(
                jax.lax.dynamic_index_in_dim(x, i + zero, 0, keepdims=False), jax.memory.Space.Device
            )

        return jax.lax.scan(layer, None, jnp.arange(x.shape[0]))[1]

    return jax.tree.map_with_path(one, tree)
