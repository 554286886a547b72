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
COEFFICIENTS = (
    3.4445,
    -4.7750,
    2.0315,
)  # Jordan et al. 2024: the steepest start that keeps singular values within about 0.7 and 1.2


class Muon(BaseModel, frozen=True, extra="forbid", strict=True):
    """The mean gradient of each hidden matrix, made orthogonal; AdamW for norms, biases, embeddings and the
    output matrix.

    A step has the root mean square `rms`, as AdamW's has by experience, so that both take the same learning
    rate and weight decay.
    State: 4 bytes a parameter of hidden matrices, 8 of the others.
    """

    momentum: Rate = 0.95
    rms: PositiveFloat = 0.2
    b1: Rate = 0.9  # this and what follows: of AdamW for the others
    b2: Rate = 0.95
    eps: PositiveFloat = 1e-8

    supports_mup: ClassVar[bool] = False

    def core(self) -> optax.GradientTransformation:
        others = optax.scale_by_adam(self.b1, self.b2, self.eps)
        return on_hidden_matrices(scale_by_orthogonal(self.momentum, self.rms), others)


def scale_by_orthogonal(momentum: float, rms: float) -> optax.GradientTransformation:
    """Gradient -> Nesterov's momentum -> orthogonal, times rms · sqrt(longer side): `optax.contrib.muon`,
    on divided matrices.
    """

    def update(name: str, gradient: Any, mean: Any, _: Any, count: Any) -> tuple[Any, Any]:
        mean = momentum * mean + (1 - momentum) * gradient
        ahead = momentum * mean / (1 - momentum ** (count + 1.0)) + (1 - momentum) * gradient / (
            1 - momentum ** (count + 0.0)
        )

        def directions(whole: dict[str, Any]) -> dict[str, Any]:
            x = whole["ahead"]
            return {"ahead": orthogonalized(x) * (rms * math.sqrt(max(x.shape[1:])))}

        return on_whole_matrices(directions, {"ahead": ahead}, {"ahead": matrix_of(name)}, out=["ahead"])[
            "ahead"
        ], mean

    return by_leaf(lambda _, x: jnp.zeros_like(x), update)


def orthogonalized(x: Float[Array, "matrices rows columns"]) -> Float[Array, "matrices rows columns"]:
    """Each matrix with its singular values brought near 1, by products alone (Newton-Schulz of degree
    five). Zeros stay zeros.

    x <- a·x + (b·x·xᵀ + c·(x·xᵀ)²)·x from x over its Frobenius norm, where x·xᵀ has the shorter side.
    """
    if x.shape[1] > x.shape[2]:
        return jnp.swapaxes(orthogonalized(jnp.swapaxes(x, 1, 2)), 1, 2)
    a, b, c = COEFFICIENTS
    x = x / (jnp.linalg.norm(x, axis=(1, 2), keepdims=True) + 1e-8)

    def iteration(_: Any, x: Array) -> Array:
        square = x @ jnp.swapaxes(x, 1, 2)
        return a * x + (b * square + c * square @ square) @ x

    return jax.lax.fori_loop(0, ITERATIONS, iteration, x)
