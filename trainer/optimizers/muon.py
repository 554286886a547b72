"""Muon (Jordan et al. 2024), with the step sizes of Liu et al. 2025, section 2.2."""

import math
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float
from pydantic import BaseModel, PositiveFloat

from trainer.optimizers.common.by_leaf import by_leaf, on_hidden_matrices
from trainer.optimizers.common.rule import Rate
from trainer.optimizers.common.whole_matrices import matrix_of, on_whole_matrices

Products = Literal["float32", "bfloat16"]

ITERATIONS = 5
# Jordan et al. 2024: the steepest start that keeps singular values within about 0.7 and 1.2
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


class Muon(BaseModel, frozen=True, extra="forbid", strict=True):
    """The mean gradient of each hidden matrix, made orthogonal; AdamW for all other parameters.

    The others are norms, biases, embeddings and the output matrix. A step has the root mean square `rms`, as
    AdamW's has by experience, so that both take the same learning rate and weight decay. State: 4 bytes a
    parameter of hidden matrices, 8 of the others.

    `products: bfloat16`, as in the authors' code, costs less on matrix units. Steps then agree with those in
    float32, and those of two meshes with each other, to a few percent of their rms instead of 1e-5.
    """

    momentum: Rate = 0.95
    rms: PositiveFloat = 0.2
    products: Products = "float32"  # what the matrices of the iteration are rounded to
    b1: Rate = 0.9  # this and what follows: of AdamW for the others
    b2: Rate = 0.95
    eps: PositiveFloat = 1e-8

    supports_mup: ClassVar[bool] = False  # its steps already have a size that suits each width

    def core(self) -> optax.GradientTransformation:
        others = optax.scale_by_adam(self.b1, self.b2, self.eps)
        hidden = scale_by_orthogonal(self.momentum, self.rms, products=self.products)
        return on_hidden_matrices(hidden, others)


def scale_by_orthogonal(
    momentum: float, rms: float, *, products: Products
) -> optax.GradientTransformation:
    """Gradient -> Nesterov's momentum -> orthogonal, times rms · sqrt(longer side).

    It is `optax.contrib.muon`, but on sharded matrices.
    """

    def orthogonal_step(matrices: dict[str, Any]) -> dict[str, Any]:
        x = matrices["look_ahead"]
        # an orthogonal matrix has a root mean square of 1 / sqrt(longer side)
        longer_side = max(x.shape[1:])
        orthogonal = orthogonalized(x, products=products)
        return {"look_ahead": orthogonal * (rms * math.sqrt(longer_side))}

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
    x: Float[Array, "matrices rows columns"], *, products: Products
) -> Float[Array, "matrices rows columns"]:
    """Each matrix with its singular values brought near 1, by products alone; zeros stay zeros.

    Newton-Schulz of degree five: x <- a·x + (b·x·xᵀ + c·(x·xᵀ)²)·x from x over its Frobenius norm. Sums stay
    in float32 between products of either type.
    """
    if x.shape[1] > x.shape[2]:  # x·xᵀ then has the shorter side, which costs less
        transposed = orthogonalized(jnp.swapaxes(x, 1, 2), products=products)
        return jnp.swapaxes(transposed, 1, 2)
    # divided by its norm, so that all singular values are at most 1, where the
    # iteration converges
    a, b, c = COEFFICIENTS
    x = x / (jnp.linalg.norm(x, axis=(1, 2), keepdims=True) + 1e-8)

    def product(left: Array, right: Array) -> Array:
        left = left.astype(products)
        right = right.astype(products)
        # by default a TPU rounds the operands of float32 products to bf16, a GPU to TF32
        highest = jax.lax.Precision.HIGHEST
        # The result has the operands' type: asked for float32 from bf16 operands, XLA on a CPU leaves out
        # their rounding and computes in float32, at its cost.
        return jnp.matmul(left, right, precision=highest).astype(jnp.float32)

    def iteration(_: Any, x: Array) -> Array:
        square = product(x, jnp.swapaxes(x, 1, 2))
        return a * x + product(b * square + product(c * square, square), x)

    return jax.lax.fori_loop(0, ITERATIONS, iteration, x)
