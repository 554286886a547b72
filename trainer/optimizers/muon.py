"""Muon (Jordan et al. 2024), with the step sizes of Liu et al. 2025, section 2.2."""

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float
from pydantic import BaseModel, PositiveFloat

from trainer.optimizers.common.by_leaf import by_leaf, on_hidden_matrices
from trainer.optimizers.common.rule import Rate
from trainer.optimizers.common.whole_matrices import matrix_of, on_whole_matrices

ITERATIONS = 5
# Jordan et al. 2024: the steepest start that keeps singular values within about 0.7 and 1.2
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


class Muon(BaseModel, frozen=True, extra="forbid", strict=True):
    """The mean gradient of each hidden matrix, made orthogonal; AdamW for all other parameters.

    The others are norms, biases, embeddings and the output matrix. A step has the root mean square `rms`, as
    AdamW's has by experience, so that both take the same learning rate and weight decay. State: 4 bytes a
    parameter of hidden matrices, 8 of the others.
    """

    momentum: Rate = 0.95
    rms: PositiveFloat = 0.2
    b1: Rate = 0.9  # this and what follows: of AdamW for the others
    b2: Rate = 0.95
    eps: PositiveFloat = 1e-8

    supports_mup: ClassVar[bool] = False  # its steps already have a size that suits each width

    def core(self) -> optax.GradientTransformation:
        others = optax.scale_by_adam(self.b1, self.b2, self.eps)
        return on_hidden_matrices(scale_by_orthogonal(self.momentum, self.rms), others)


def scale_by_orthogonal(momentum: float, rms: float) -> optax.GradientTransformation:
    """Gradient -> Nesterov's momentum -> orthogonal, times rms · sqrt(longer side).

    It is `optax.contrib.muon`, but on sharded matrices.
    """

    def orthogonal_step(matrices: dict[str, Any]) -> dict[str, Any]:
        x = matrices["look_ahead"]
        # an orthogonal matrix has a root mean square of 1 / sqrt(longer side)
        longer_side = max(x.shape[1:])
        return {"look_ahead": orthogonalized(x) * (rms * math.sqrt(longer_side))}

    def update(name: str, gradient: Any, mean: Any, _: Any, count: Any) -> tuple[Any, Any]:
        mean = momentum * mean + (1 - momentum) * gradient
        # the mean as it will be after the next step, each term corrected for its start at zero
        corrected_mean = momentum * mean / (1 - momentum ** (count + 1.0))
        corrected_gradient = (1 - momentum) * gradient / (1 - momentum ** (count + 0.0))
        look_ahead = {"look_ahead": corrected_mean + corrected_gradient}
        matrices = {"look_ahead": matrix_of(name)}
        steps = on_whole_matrices(orthogonal_step, look_ahead, matrices, out=["look_ahead"])
        return steps["look_ahead"], mean

    return by_leaf(lambda _, x: jnp.zeros_like(x), update)


def orthogonalized(
    x: Float[Array, "matrices rows columns"],
) -> Float[Array, "matrices rows columns"]:
    """Each matrix with its singular values brought near 1, by products alone; zeros stay zeros.

    Newton-Schulz of degree five: x <- a·x + (b·x·xᵀ + c·(x·xᵀ)²)·x from x over its Frobenius norm.
    """
    if x.shape[1] > x.shape[2]:  # x·xᵀ then has the shorter side, which costs less
        return jnp.swapaxes(orthogonalized(jnp.swapaxes(x, 1, 2)), 1, 2)
    # divided by its norm, so that all singular values are at most 1, where the
    # iteration converges
    a, b, c = COEFFICIENTS
    x = x / (jnp.linalg.norm(x, axis=(1, 2), keepdims=True) + 1e-8)

    def iteration(_: Any, x: Array) -> Array:
        square = x @ jnp.swapaxes(x, 1, 2)
        return a * x + (b * square + c * square @ square) @ x

    return jax.lax.fori_loop(0, ITERATIONS, iteration, x)
