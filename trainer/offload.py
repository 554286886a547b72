"""Offloading: parameters or optimizer state in host memory between steps, on the devices during a step."""

from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import optax

from model.api import leaf_name
from model.mesh import on_host
from model.sharding import letters_of
from trainer.state import TrainState


def at_rest(state: TrainState, offload: Collection[str]) -> TrainState:
    """The state with what `offload` names ("params", "optimizer") in host memory; scalars stay on device."""

    def to_host(x: Any) -> Any:
        return jax.device_put(x, jax.memory.Space.Host) if x.ndim else x

    return _map_offloaded(to_host, state, offload)


def placed_at_rest(shapes: TrainState, offload: Collection[str]) -> TrainState:
    """The shapes and layouts of `at_rest(state)`, from those of a state on devices."""

    def on_host_memory(s: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        if not s.shape:
            return s
        return jax.ShapeDtypeStruct(
            s.shape, s.dtype, sharding=s.sharding.with_memory_kind("pinned_host")
        )

    return _map_offloaded(on_host_memory, shapes, offload)


def _map_offloaded(
    fn: Callable[[Any], Any], state: TrainState, offload: Collection[str]
) -> TrainState:
    """Apply `fn` to every array that `offload` names.

    The guard's history is never offloaded: XLA would compute on the host what only depends on host arrays.
    """
    if "params" in offload:
        state = state._replace(trainable=jax.tree.map(fn, state.trainable))
    if "optimizer" in offload:
        # `inner` is the optimizer's own state, beside the guard's history.
        inner = jax.tree.map(fn, state.opt_state.inner)
        state = state._replace(opt_state=state.opt_state._replace(inner=inner))
    return state


def to_device(tree: Any, *, after: Any) -> Any:
    """Copy what is on the host to the devices, once `after` is computed; stacks come layer by layer.

    Without a reason to wait XLA would start all copies at the beginning of the step, when memory is fullest.
    So the copies are made to depend on a zero that is computed from `after`.
    """
    # Always 0, as a norm is never negative and NaN < 0 is false; XLA cannot prove it and fold it away.
    zero = (optax.tree.norm(after) < 0).astype(jnp.int32)

    def fetched(path: Any, x: Any) -> Any:
        if not on_host(x):
            return x
        # a moment's path ends in the name of its parameter
        if not letters_of(leaf_name(path)).startswith("N"):
            return jax.device_put(x, jax.memory.Space.Device)

        def layer(_: None, i: Any) -> tuple[None, Any]:
            # Adding the zero makes the copy depend on `after`.
            x_i = jax.lax.dynamic_index_in_dim(x, i + zero, 0, keepdims=False)
            return None, jax.device_put(x_i, jax.memory.Space.Device)

        _, layers = jax.lax.scan(layer, None, jnp.arange(x.shape[0]))
        return layers

    return jax.tree.map_with_path(fetched, tree)
