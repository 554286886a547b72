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
from trainer.optimizers.common.by_leaf import by_leaf, ema_update, on_hidden_matrices, zeros_at_rest
from trainer.optimizers.common.rule import Rate
from trainer.optimizers.common.whole_matrices import Matrix, matrix_of, on_whole_matrices

SIDES = ("rows", "columns")


class SOAP(BaseModel, frozen=True, extra="forbid", strict=True):
    """AdamW in the eigenbases of Shampoo's factors of each hidden matrix; plain AdamW elsewhere.

    The bases are updated every `every` steps; a side longer than `max_side` is not rotated. State: 8 bytes a
    parameter, and 8 · side² bytes for each rotated side of each matrix.
    """

    # the defaults of the authors' code
    b1: Rate = 0.95
    b2: Rate = 0.95
    eps: PositiveFloat = 1e-8
    every: PositiveInt = 10
    max_side: PositiveInt = 10_000

    supports_mup: ClassVar[bool] = False

    def core(self) -> optax.GradientTransformation:
        rotated = scale_by_rotated_adam(
            self.b1, self.b2, self.eps, every=self.every, max_side=self.max_side
        )
        return on_hidden_matrices(rotated, optax.scale_by_adam(self.b1, self.b2, self.eps))


def scale_by_rotated_adam(
    b1: float, b2: float, eps: float, *, every: int, max_side: int
) -> optax.GradientTransformation:
    """Adam's direction in bases where the mean products G·Gᵀ and Gᵀ·G are diagonal, rotated back.

    Bases are updated before the steps 1, 1 + every, 1 + 2 · every, … by a power iteration, the first from the
    identity. The paper updates them after a step, starts with an eigendecomposition, and makes no update in
    the first step.
    """
    step = partial(_step, b2=b2, eps=eps, every=every)
    # products in bf16, the default on TPUs, would not keep the bases orthogonal
    exact_step = jax.default_matmul_precision("float32")(step)

    def init(name: str, x: Any) -> dict[str, Any]:
        state = {}
        for kind, (matrix, shape) in _state_matrices(name, x.shape, max_side).items():
            key = _key(kind, matrix)
            state[key] = zeros_at_rest(letters_of(key), shape)
        return state

    def update(
        name: str, gradient: Any, state: dict[str, Any], _: Any, count: Any
    ) -> tuple[Any, dict[str, Any]]:
        of_state = _state_matrices(name, gradient.shape, max_side)
        matrices = {kind: matrix for kind, (matrix, _) in of_state.items()}
        arrays = {kind: state[_key(kind, matrix)] for kind, matrix in matrices.items()}
        # The mean is stored unrotated, so that new bases do not change it.
        mu, mu_corrected = ema_update(arrays["mu"], gradient, b1, count)
        arrays |= {"mu": mu_corrected, "gradient": gradient}
        # the gradient is exchanged like the state, so that both are on the device that has the matrix
        all_matrices = {**matrices, "gradient": matrix_of(name)}
        results = on_whole_matrices(exact_step, arrays, all_matrices, count, out=[*matrices])
        direction = results["mu"]
        results["mu"] = mu  # the state keeps the mean without correction
        return direction, {_key(kind, matrix): results[kind] for kind, matrix in matrices.items()}

    return by_leaf(init, update)


def _state_matrices(
    name: str, shape: tuple[int, ...], max_side: int
) -> dict[str, tuple[Matrix, tuple[int, ...]]]:
    """Letters and shape of each array in the state of a matrix.

    They are the two moments, and for each side that is rotated the mean products and the basis.
    """
    matrix = matrix_of(name)
    first_row = len(matrix.stack)
    first_column = first_row + len(matrix.rows)
    # the moments have the matrix's own shape and letters
    arrays = dict.fromkeys(("mu", "nu"), (matrix, shape))
    letters_of_side = {"rows": matrix.rows, "columns": matrix.columns}
    sizes_of_side = {"rows": shape[first_row:first_column], "columns": shape[first_column:]}
    for side in SIDES:
        letters = letters_of_side[side]
        sizes = sizes_of_side[side]
        if math.prod(sizes) <= max_side:
            # Both dimensions have the side's letters; a mesh axis shards only the first occurrence.
            square = Matrix(matrix.stack, letters, letters)
            square_shape = (*shape[:first_row], *sizes, *sizes)
            arrays |= dict.fromkeys((side, f"{side}_basis"), (square, square_shape))
    return arrays


def _key(kind: str, matrix: Matrix) -> str:
    return f"{kind}_{''.join(matrix)}"


def _step(
    arrays: dict[str, Array], count: Any, *, b2: float, eps: float, every: int
) -> dict[str, Array]:
    """The state after a step, except that "mu" is the direction; all arrays are [matrices, rows, columns].

    With the gradient G, its corrected mean M, and the bases P of rows and Q of columns:

        rows    <- b2 · rows    + (1 - b2) · G·Gᵀ
        columns <- b2 · columns + (1 - b2) · Gᵀ·G
        nu      <- b2 · nu      + (1 - b2) · (Pᵀ·G·Q)²
        direction = P · (Pᵀ·M·Q / (sqrt(nu corrected) + eps)) · Qᵀ
    """
    gradient = arrays["gradient"]
    sides = [side for side in SIDES if side in arrays]
    # Shampoo's factors: products of the gradient's rows, and of its columns, with each other
    products = {
        "rows": gradient @ _transposed(gradient),
        "columns": _transposed(gradient) @ gradient,
    }
    means = {side: b2 * arrays[side] + (1 - b2) * products[side] for side in sides}
    bases = {}
    for side in sides:
        # the state starts as zeros, from which a power iteration cannot start
        identity = jnp.eye(arrays[side].shape[1])
        bases[side] = jnp.where(count == 1, identity, arrays[f"{side}_basis"])
    # `cond`, not `where`, which would compute the expensive decomposition in every step
    is_due = (count - 1) % every == 0
    bases, nu = jax.lax.cond(
        is_due, _next_bases, lambda _, bases, nu: (bases, nu), means, bases, arrays["nu"]
    )
    nu, nu_corrected = ema_update(nu, _rotated(gradient, bases) ** 2, b2, count)
    direction = _rotated(arrays["mu"], bases) / (jnp.sqrt(nu_corrected) + eps)
    # a basis is orthonormal, so its inverse is its transpose
    inverse_bases = {side: _transposed(basis) for side, basis in bases.items()}
    return {
        "mu": _rotated(direction, inverse_bases),
        "nu": nu,
        **means,
        **{f"{side}_basis": basis for side, basis in bases.items()},
    }


def _next_bases(
    means: dict[str, Array], bases: dict[str, Array], nu: Array
) -> tuple[dict[str, Array], Array]:
    """One step of power iteration with a QR decomposition (algorithm 4), largest eigenvalues first.

    The second moment `nu` is in the old bases: its rows and columns are reordered with the basis vectors.
    """
    next_bases = {}
    for axis, side in enumerate(SIDES, 1):
        if side in bases:
            # the diagonal of basisᵀ · means · basis estimates the eigenvalues
            eigenvalues = jnp.sum(bases[side] * (means[side] @ bases[side]), axis=1)
            # Sorted, as QR takes columns in order: the leading ones keep their direction best.
            order = jnp.argsort(-eigenvalues, axis=1)
            nu = jnp.take_along_axis(nu, jnp.expand_dims(order, 3 - axis), axis)
            ordered = jnp.take_along_axis(bases[side], order[:, None], 2)
            # multiplied by the means and made orthogonal again: one step of the power iteration
            next_bases[side] = jnp.linalg.qr(means[side] @ ordered)[0]
    return next_bases, nu


def _rotated(
    x: Float[Array, "matrices rows columns"], bases: dict[str, Array]
) -> Float[Array, "matrices rows columns"]:
    """x in these bases of its rows and columns; a side without a basis is not rotated."""
    if "rows" in bases:
        x = _transposed(bases["rows"]) @ x
    if "columns" in bases:
        x = x @ bases["columns"]
    return x


def _transposed(x: Float[Array, "matrices rows columns"]) -> Float[Array, "matrices columns rows"]:
    return jnp.swapaxes(x, 1, 2)
