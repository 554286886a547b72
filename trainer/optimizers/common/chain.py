"""The links around every rule in an optimizer's chain: clipping, masks of weight decay, averaging."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from model.api import leaf_name
from model.sharding import letters_of
from model.size import is_matrix


def decay_mask(no_decay: tuple[str, ...]) -> Callable[[Any], Any]:
    """Parameters -> True where weight decay applies: matrices whose name matches no pattern.

    Raises:
        ValueError: a pattern matches no parameter.
    """

    def matches(name: str) -> bool:
        return any(re.search(pattern, name) for pattern in no_decay)

    def decays(path: Any, _: Any) -> bool:
        name = leaf_name(path)
        return is_matrix(name) and not matches(name)

    def mask(params: Any) -> Any:
        # checked here: with a misspelt pattern a parameter would silently be decayed
        names = [leaf_name(path) for path, _ in jax.tree.leaves_with_path(params)]
        for pattern in no_decay:
            if not any(re.search(pattern, name) for name in names):
                known = ", ".join(names)
                why = f"matches no parameter ({known}); correct it or take it out"
                raise ValueError(f"optimizer.no_decay={pattern!r} {why}")
        return jax.tree.map_with_path(decays, params)

    return mask


def clip_each(limit: float) -> optax.GradientTransformation:
    """Scale down each parameter's gradient whose norm exceeds `limit`; of a stack, each layer's alone."""

    def clip(path: Any, x: Any) -> Any:
        first_dim = 1 if letters_of(leaf_name(path)).startswith("N") else 0
        # each layer of a stack is a parameter of its own, stored together with the others
        dims = tuple(range(first_dim, x.ndim))
        norm = jnp.sqrt(jnp.sum(x**2, axis=dims, keepdims=True))
        smallest = jnp.finfo(norm.dtype).tiny  # so that a gradient of zeros gives zeros, not NaN
        return x * jnp.minimum(1.0, limit / jnp.maximum(norm, smallest))

    return optax.stateless(lambda gradients, _: jax.tree.map_with_path(clip, gradients))


class Average(NamedTuple):
    """The exponential mean of the parameters over steps."""

    count: Int[Array, ""]
    average: Any


def average(decay: float) -> optax.GradientTransformation:
    """Keep an exponential mean of the parameters after each step; updates pass unchanged.

    After t steps the weights of the t parameters seen add up to 1: the share of the newest is (1 - decay) /
    (1 - decay^t).
    """

    def init(params: Any) -> Average:
        # Copies: the step donates parameters and state, and the same array cannot be donated twice.
        return Average(jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, params))

    def update(updates: Any, state: Average, params: Any) -> tuple[Any, Average]:
        count = state.count + 1
        # expm1 and log, since 1 - decay^t loses all digits when decay is near 1
        share = (1 - decay) / -jnp.expm1(count * jnp.log(decay))

        def mean_after(mean: Array, x: Array, update: Array) -> Array:
            return (mean + share * (x + update - mean)).astype(x.dtype)

        return updates, Average(count, jax.tree.map(mean_after, state.average, params, updates))

    return optax.GradientTransformation(init, update)


def averaged(opt_state: Any, trainable: Any) -> Any:
    """The averaged parameters of an optimizer with `ema_decay`; without it the parameters themselves."""
    return optax.tree.get(opt_state, "average", trainable)
