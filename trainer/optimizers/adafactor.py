"""Adafactor (Shazeer and Stern 2018, algorithms 4 for matrices and 5 for vectors)."""

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
    """AdamW with only row and column means of the second moment, and steps relative to each matrix's RMS.

    `peak_lr` is a share of that RMS. State: next to nothing, or 4 bytes a parameter with the momentum `b1`.
    """

    b1: Rate | None = None
    # Step t keeps 1 - t^-decay_power of the second moment. These three defaults are those of algorithm 6.
    decay_power: float = Field(0.8, gt=0, le=1)
    # largest RMS of a matrix's direction, before it is multiplied by the matrix's RMS
    clip_rms: PositiveFloat = 1.0
    # RMS that a matrix is taken to have at least: one initialized to zeros would never move otherwise
    min_rms: PositiveFloat = 1e-3

    supports_mup: ClassVar[bool] = False

    def core(self) -> optax.GradientTransformation:
        core = scale_by_factored(
            decay_power=self.decay_power, clip_rms=self.clip_rms, min_rms=self.min_rms
        )
        if not self.b1:
            return core
        return optax.chain(core, optax.ema(self.b1, debias=False))


def scale_by_factored(
    *, decay_power: float, clip_rms: float, min_rms: float
) -> optax.GradientTransformation:
    """Gradient over the root of its mean square, times the size of the parameter; each matrix alone.

    For a matrix x [n, m] with gradient G at step t, and b = 1 - t^-decay_power:

        R <- b·R + (1 - b) · mean of G² over columns        [n]
        C <- b·C + (1 - b) · mean of G² over rows           [m]
        U = G / sqrt(R · C / mean(R))
        direction = U / max(1, rms(U) / clip_rms) · max(min_rms, rms(x))

    `optax.adafactor` does not treat a stack as separate matrices, and its state has no letters to be laid out
    by.
    """

    def init(name: str, x: Any) -> dict[str, Any]:
        state = {}
        for key, dims in _means_of(name).items():
            # without the dimensions that are averaged over
            shape = tuple(size for i, size in enumerate(x.shape) if i not in dims)
            state[key] = zeros_at_rest(letters_of(key), shape)
        return state

    def update(
        name: str, gradient: Any, state: dict[str, Any], x: Any, count: Any
    ) -> tuple[Any, dict[str, Any]]:
        decay = 1 - count ** -jnp.float32(decay_power)
        square = (
            gradient**2 + 1e-30
        )  # the paper's epsilon 1: a mean of 0 would be raised to -1/2 below
        dims_of = _means_of(name)
        means = {
            key: _updated_mean(state[key], square, dims, decay) for key, dims in dims_of.items()
        }
        direction = gradient
        # one after the other: the product of both means would be a further array as large as the matrix
        for mean in means.values():
            direction = direction * mean**-0.5
        if is_matrix(name):
            # The estimated square is row mean · column mean / mean of the row means. `means` has the row
            # means first; the column means were taken over the dimensions that are left in the row means.
            row_means = list(means.values())[0]
            row_dims = list(dims_of.values())[1]
            direction = direction * jnp.mean(row_means, row_dims, keepdims=True) ** 0.5
        # the RMS is taken over each matrix, not over the dimensions of its stack
        matrix_dims = tuple(range(len(_stack(name)), x.ndim))
        # update clipping (section 6): an unusually large direction is scaled down, a small one not up
        direction = direction / jnp.maximum(1.0, _rms(direction, matrix_dims) / clip_rms)
        direction = direction * jnp.maximum(min_rms, _rms(x, matrix_dims))
        new_state = {}
        for key, mean in means.items():
            new_state[key] = shard(jnp.squeeze(mean, dims_of[key]), letters_of(key), at_rest=True)
        return direction, new_state

    return by_leaf(init, update)


def _stack(name: str) -> str:
    """The letters of the dimensions that count matrices, or vectors, in a stack."""
    if is_matrix(name):
        return matrix_of(name).stack
    return "N" if letters_of(name).startswith("N") else ""


def _means_of(name: str) -> dict[str, tuple[int, ...]]:
    """Name of each array in a parameter's state -> the dimensions it averages over: row means, column means.

    A vector has neither: its second moment is kept for each number.
    """
    if not is_matrix(name):
        return {f"nu_{letters_of(name)}": ()}
    stack, rows, columns = matrix_of(name)
    first_row = len(stack)
    first_column = first_row + len(rows)
    return {
        f"rows_{stack}{rows}": tuple(range(first_column, first_column + len(columns))),
        f"columns_{stack}{columns}": tuple(range(first_row, first_column)),
    }


def _updated_mean(old: Any, square: Any, dims: tuple[int, ...], decay: Any) -> Any:
    """The running mean over `dims` after one more square; `dims` stay, with size 1."""
    new = jnp.mean(square, dims, keepdims=True)
    # At rest the state is laid out by its own letters, while `new` has the gradient's layout.
    old = jax.sharding.reshard(jnp.expand_dims(old, dims), jax.typeof(new).sharding.spec)
    return decay * old + (1 - decay) * new


def _rms(x: Any, dims: tuple[int, ...]) -> Any:
    return jnp.sqrt(jnp.mean(x**2, dims, keepdims=True))
