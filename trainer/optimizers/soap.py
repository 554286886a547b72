"""SOAP (Vyas et al. 2024, algorithm 3)."""

import math
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float
from pydantic import BaseModel, PositiveFloat, PositiveInt

from model.sharding import letters_of
from trainer.optimizers.common.by_leaf import by_leaf, moved, on_hidden_matrices, zeros_at_rest
from trainer.optimizers.common.rule import Rate
from trainer.optimizers.common.whole_matrices import Matrix, matrix_of, on_whole_matrices


class SOAP(BaseModel, frozen=True, extra="forbid", strict=True):
    """AdamW in the eigenbasis of each hidden matrix's rows and columns (Shampoo's), found again every
    `every` steps; plain AdamW elsewhere.

    A side longer than `max_side` is not rotated. State: 8 bytes a parameter, and 8 · side² of each side of
    each matrix.
    """

    b1: Rate = 0.95
    b2: Rate = 0.95
    eps: PositiveFloat = 1e-8
    every: PositiveInt = 10
    max_side: PositiveInt = 10_000

    supports_mup: ClassVar[bool] = False

    def core(self) -> optax.GradientTransformation:
        rotated = scale_by_rotated_adam(self.b1, self.b2, self.eps, every=self.every, max_side=self.max_side)
        return on_hidden_matrices(rotated, optax.scale_by_adam(self.b1, self.b2, self.eps))


def scale_by_rotated_adam(
    b1: float, b2: float, eps: float, *, every: int, max_side: int
) -> optax.GradientTransformation:
    """Adam's direction where the mean products of rows and of columns are diagonal, turned back.

    Bases are found before the steps 1, 1 + every, 1 + 2 · every, … by a power iteration, the first from the
    identity. The paper turns them behind a step, begins with an eigendecomposition, and makes no update in
    the first step.
    """

    def init(name: str, x: Any) -> dict[str, Any]:
        shapes = {
            _key(part, matrix): shape for part, (matrix, shape) in _parts(name, x.shape, max_side).items()
        }
        return {key: zeros_at_rest(letters_of(key), shape) for key, shape in shapes.items()}

    def update(
        name: str, gradient: Any, state: dict[str, Any], _: Any, count: Any
    ) -> tuple[Any, dict[str, Any]]:
        matrices = {part: matrix for part, (matrix, _) in _parts(name, gradient.shape, max_side).items()}
        arrays = {part: state[_key(part, matrix)] for part, matrix in matrices.items()}
        mu, mean = moved(arrays["mu"], gradient, b1, count)
        arrays |= {"mu": mean, "gradient": gradient}
        step = jax.default_matmul_precision("float32")(partial(_step, b2=b2, eps=eps, every=every))
        found = on_whole_matrices(
            step, arrays, {**matrices, "gradient": matrix_of(name)}, count, out=[*matrices]
        )
        return found["mu"], {
            _key(part, matrix): mu if part == "mu" else found[part] for part, matrix in matrices.items()
        }

    return by_leaf(init, update)


def _parts(name: str, shape: tuple[int, ...], max_side: int) -> dict[str, tuple[Matrix, tuple[int, ...]]]:
    """What the state of a matrix holds, and its shape: moments, and of each side that is rotated the mean
    products and the basis.
    """
    whole = matrix_of(name)
    n, first = len(whole.stack), len(whole.stack) + len(whole.rows)
    parts = dict.fromkeys(("mu", "nu"), (whole, shape))
    for side, letters, sizes in (
        ("rows", whole.rows, shape[n:first]),
        ("columns", whole.columns, shape[first:]),
    ):
        if math.prod(sizes) <= max_side:
            square = Matrix(whole.stack, letters, letters), (*shape[:n], *sizes, *sizes)
            parts |= dict.fromkeys((side, f"{side}_basis"), square)
    return parts


def _key(part: str, matrix: Matrix) -> str:
    return f"{part}_{''.join(matrix)}"


def _step(whole: dict[str, Array], count: Any, *, b2: float, eps: float, every: int) -> dict[str, Array]:
    """On [matrices, rows, columns]: the direction in the place of "mu", and the rest of the state moved
    on.
    """
    gradient, sides = whole["gradient"], [side for side in ("rows", "columns") if side in whole]
    products = {"rows": gradient @ _turned(gradient), "columns": _turned(gradient) @ gradient}
    means = {side: b2 * whole[side] + (1 - b2) * products[side] for side in sides}
    bases = {
        side: jnp.where(count == 1, jnp.eye(whole[side].shape[1]), whole[f"{side}_basis"]) for side in sides
    }
    bases, nu = jax.lax.cond(
        (count - 1) % every == 0, _next_bases, lambda _, *same: same, means, bases, whole["nu"]
    )
    nu, square = moved(nu, _rotated(gradient, bases) ** 2, b2, count)
    direction = _rotated(whole["mu"], bases) / (jnp.sqrt(square) + eps)
    back = {side: _turned(basis) for side, basis in bases.items()}
    return {
        "mu": _rotated(direction, back),
        "nu": nu,
        **means,
        **{f"{side}_basis": basis for side, basis in bases.items()},
    }


def _next_bases(
    means: dict[str, Array], bases: dict[str, Array], nu: Array
) -> tuple[dict[str, Array], Array]:
    """One power iteration, orthonormal again (algorithm 4), largest first; what `nu` knows moves with its
    vectors.
    """
    found = {}
    for axis, side in enumerate(("rows", "columns"), 1):
        if side in bases:
            size = jnp.sum(
                bases[side] * (means[side] @ bases[side]), axis=1
            )  # the diagonal of the means in their basis
            order = jnp.argsort(-size, axis=1)
            nu = jnp.take_along_axis(nu, jnp.expand_dims(order, 3 - axis), axis)
            found[side] = jnp.linalg.qr(means[side] @ jnp.take_along_axis(bases[side], order[:, None], 2))[0]
    return found, nu


def _rotated(
    x: Float[Array, "matrices rows columns"], bases: dict[str, Array]
) -> Float[Array, "matrices rows columns"]:
    """x in these bases of its rows and columns."""
    x = _turned(bases["rows"]) @ x if "rows" in bases else x
    return x @ bases["columns"] if "columns" in bases else x


def _turned(x: Float[Array, "matrices rows columns"]) -> Float[Array, "matrices columns rows"]:
    return jnp.swapaxes(x, 1, 2)
