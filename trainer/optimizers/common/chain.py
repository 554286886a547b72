"""What all optimizers have in common around their own direction: clipping, weight decay, learning rate,
averaging.
"""

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

    def mask(params: Any) -> Any:
        names = [leaf_name(path) for path, _ in jax.tree.leaves_with_path(params)]
        for pattern in no_decay:
            if not any(re.search(pattern, name) for name in names):
                raise ValueError(
                    f"optimizer.no_decay={pattern!r} matches no parameter ({', '.join(names)}); correct it or take it out"
                )

        def one(path: Any, _: Any) -> bool:
            name = leaf_name(path)
            return is_matrix(name) and not any(re.search(pattern, name) for pattern in no_decay)

        return jax.tree.map_with_path(one, params)

    return mask


def clip_each(limit: float) -> optax.GradientTransformation:
    """Scale down each parameter's gradient whose norm exceeds `limit`; of a stack, each layer's alone."""

    def one(path: Any, x: Any) -> Any:
        first = 1 if letters_of(leaf_name(path)).startswith("N") else 0
        norm = jnp.sqrt(jnp.sum(x**2, axis=tuple(range(first, x.ndim)), keepdims=True))
        return x * jnp.minimum(1.0, limit / jnp.maximum(norm, jnp.finfo(norm.dtype).tiny))

    return optax.stateless(lambda gradients, _: jax.tree.map_with_path(one, gradients))


class Average(NamedTuple):
    """The mean of the parameters over steps, recent ones weighing most."""

    count: Int[Array, ""]
    average: Any


def average(decay: float) -> optax.GradientTransformation:
    """Keep an exponential mean of the parameters after each step; updates pass unchanged.

    After t steps the weights of the t parameters seen add up to 1: the share of the newest is (1 - decay) /
    (1 - decay^t).
    """

    def init(params: Any) -> Average:
        return Average(jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, params))

    def update(updates: Any, state: Average, params: Any) -> tuple[Any, Average]:
        count = state.count + 1
        share = (1 - decay) / -jnp.expm1(count * jnp.log(decay))
        means = jax.tree.map(
            lambda mean, x, u: (mean + share * (x + u - mean)).astype(x.dtype), state.average, params, updates
        )
        return updates, Average(count, means)

    return optax.GradientTransformation(init, update)


def averaged(opt_state: Any, trainable: Any) -> Any:
    """The averaged parameters that an optimizer with `ema_decay` keeps; the parameters themselves if it
    keeps none.
    """
    return optax.tree.get(opt_state, "average", trainable)
