"""Adafactor (Shazeer and Stern 2018, algorithms 4 and 5)."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from pydantic import BaseModel, Field, PositiveFloat

from model.sharding import letters_of, shard
from model.size import is_matrix
from trainer.optimizers.common.by_leaf import by_leaf, zeros_at_rest
from trainer.optimizers.common.rule import Rate
from trainer.optimizers.common.whole_matrices import matrix_of


class Adafactor(BaseModel, frozen=True, extra="forbid", strict=True):
    """AdamW's second moment from means of rows and columns, and steps relative to the size of each matrix:
    `peak_lr` is a share of it.

    State: next to nothing, or 4 bytes a parameter with the momentum `b1`.
    """

    b1: Rate | None = None
    decay_power: float = Field(0.8, gt=0, le=1)  # a step t keeps 1 - t^-decay_power of the second moment
    clip_rms: PositiveFloat = 1.0  # of a matrix's direction, before its size comes in
    min_rms: PositiveFloat = 1e-3  # size that a matrix has at least for its steps

    supports_mup: ClassVar[bool] = False

    def core(self) -> optax.GradientTransformation:
        core = scale_by_factored(decay_power=self.decay_power, clip_rms=self.clip_rms, min_rms=self.min_rms)
        return optax.chain(core, optax.ema(self.b1, debias=False)) if self.b1 else core


def scale_by_factored(*, decay_power: float, clip_rms: float, min_rms: float) -> optax.GradientTransformation:
    """Gradient over the root of its mean square, with the size of the parameter; each matrix of a stack
    alone.

    `optax.adafactor` does this for single matrices, under names that say another shape than the state's.
    """

    def init(name: str, x: Any) -> dict[str, Any]:
        shapes = {
            key: tuple(size for i, size in enumerate(x.shape) if i not in dims)
            for key, dims in _means(name).items()
        }
        return {key: zeros_at_rest(letters_of(key), shape) for key, shape in shapes.items()}

    def update(
        name: str, gradient: Any, state: dict[str, Any], x: Any, count: Any
    ) -> tuple[Any, dict[str, Any]]:
        keep, square = 1 - count ** -jnp.float32(decay_power), gradient**2 + 1e-30
        means = {key: _mean(state[key], square, dims, keep) for key, dims in _means(name).items()}
        direction = gradient
        for mean in means.values():
            direction = direction * mean**-0.5
        if is_matrix(name):  # rows · columns / mean of rows estimates the squares
            rows, of_rows = list(means.values())[0], list(_means(name).values())[1]
            direction = direction * jnp.mean(rows, of_rows, keepdims=True) ** 0.5
        one = tuple(range(len(_stack(name)), x.ndim))
        direction = (
            direction / jnp.maximum(1.0, _rms(direction, one) / clip_rms) * jnp.maximum(min_rms, _rms(x, one))
        )
        return direction, {
            key: shard(jnp.squeeze(mean, _means(name)[key]), letters_of(key), at_rest=True)
            for key, mean in means.items()
        }

    return by_leaf(init, update)


def _stack(name: str) -> str:
    """The letters that count matrices, or vectors."""
    return matrix_of(name).stack if is_matrix(name) else "N" * letters_of(name).startswith("N")


def _means(name: str) -> dict[str, tuple[int, ...]]:
    """What the state of a parameter holds, and the dimensions over which each is a mean: rows and columns
    of a matrix, all of a vector.
    """
    if not is_matrix(name):
        return {f"nu_{letters_of(name)}": ()}
    stack, rows, columns = matrix_of(name)
    first, second = len(stack), len(stack) + len(rows)
    return {
        f"rows_{stack}{rows}": tuple(range(second, second + len(columns))),
        f"columns_{stack}{columns}": tuple(range(first, second)),
    }


def _mean(old: Any, square: Any, dims: tuple[int, ...], keep: Any) -> Any:
    """The running mean with what is new, the dimensions that it is over kept with size 1."""
    new = jnp.mean(square, dims, keepdims=True)
    old = jax.sharding.reshard(jnp.expand_dims(old, dims), jax.typeof(new).sharding.spec)
    return keep * old + (1 - keep) * new


def _rms(x: Any, dims: tuple[int, ...]) -> Any:
    return jnp.sqrt(jnp.mean(x**2, dims, keepdims=True))
