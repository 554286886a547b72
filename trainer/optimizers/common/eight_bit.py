"""Block-wise dynamic quantization to 8 bits (Dettmers et al. 2021).

Seven or eight decades, the upper ones divided most finely: a code c = 2^i + k, k < 2^i, is
10^(i - top) · (0.1 + 0.9 · (k + 1) / 2^i) of the largest magnitude of its block, and 0 is 0. Where the paper
has the middles of intervals we have their upper ends: the largest of a block is then exact, and does not
shrink each time it is read and written. Arithmetic instead of a table of 256 entries: no look-up that a mesh
would have to lay out.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from model.sharding import ALPHABET, letters_of, spec
from model.size import is_matrix

SMALLEST_BLOCK = 32  # with a scale of 4 bytes each: 28 % of what two moments in float32 take
SMALLEST_LEAF = 4096  # numbers; below, as in the paper, nothing is won
# a dimension that a mesh may divide has a multiple of so many blocks, so that none lies across devices
BLOCKS_MULTIPLE = 8


class Blocks(NamedTuple):
    """How a parameter is cut: along dimension `axis`, into `n` blocks of `length` numbers."""

    axis: int
    n: int
    length: int


def blocks_of(name: str, shape: tuple[int, ...]) -> Blocks | None:
    """The blocks of a parameter; None where it stays in float32.

    They depend on sizes alone, so that any mesh can resume. They run along the last dimension that is not the
    model width, which large meshes divide most. A block is the shortest of at least 32 numbers whose count
    takes all factors of two of the size.
    """
    letters = letters_of(name)
    if not is_matrix(name) or len(shape) != len(letters) or math.prod(shape) < SMALLEST_LEAF:
        return None
    axis = max(i for i, letter in enumerate(letters) if i != letters.find("D"))
    size = shape[axis]
    powers = [2**i for i in range(size.bit_length())]
    # The most blocks of at least 32 numbers; a power of two, since meshes divide by those.
    n = max((n for n in powers if size % n == 0 and size >= SMALLEST_BLOCK * n), default=0)
    # a repeated letter shards its first occurrence alone
    may_be_divided = ALPHABET[letters[axis]].at_rest and letters.index(letters[axis]) == axis
    if n == 0 or (may_be_divided and n % BLOCKS_MULTIPLE):
        return None
    return Blocks(axis, n, size // n)


def quantized(
    x: Float[Array, "..."], letters: str, blocks: Blocks, dtype: Any
) -> tuple[Array, Float[Array, "..."]]:
    """(codes in the shape and layout of x, the largest magnitude of each block).

    int8 holds signs, uint8 only x >= 0. Positive numbers stay positive in uint8: a second moment rounded to 0
    would make its next update as large as a gradient over epsilon.
    """
    x = _cut(x, letters, blocks)
    scale = jnp.max(jnp.abs(x), axis=blocks.axis + 1)
    largest = jnp.expand_dims(scale, blocks.axis + 1)
    # a block of zeros gives no NaN
    unit = jnp.abs(x) / jnp.maximum(largest, jnp.finfo(x.dtype).tiny)
    top = _top(dtype)
    # the decade, 0 for all that is smaller than the lowest
    i = jnp.clip(jnp.ceil(jnp.log10(unit)) + top, 0, top)
    code = jnp.round(2**i * (1 + (unit * 10 ** (top - i) - 0.1) / 0.9)) - 1
    smallest_code = int(dtype == jnp.uint8)
    code = jnp.clip(code, smallest_code, 2 ** (top + 1) - 1) * jnp.sign(x)
    return _joined(code.astype(dtype), letters, blocks), scale


def restored(
    codes: Array, scale: Float[Array, "..."], letters: str, blocks: Blocks
) -> Float[Array, "..."]:
    """The numbers that codes stand for."""
    top = _top(codes.dtype)
    codes = _cut(codes, letters, blocks)
    code = jnp.abs(codes.astype(jnp.int32))
    i = 31 - jax.lax.clz(jnp.maximum(code, 1))  # the power of two below it
    unit = 10.0 ** (i - top) * (0.1 + 0.9 * (code + 1 - 2**i) / 2**i)
    sign = jnp.sign(codes).astype(scale.dtype)
    x = sign * jnp.where(code > 0, unit, 0) * jnp.expand_dims(scale, blocks.axis + 1)
    return _joined(x, letters, blocks)


def _top(dtype: Any) -> int:
    """The highest exponent: 6 beside a sign, 7 without."""
    return 6 if dtype == jnp.int8 else 7


def _cut(x: Array, letters: str, blocks: Blocks) -> Array:
    """[…, n · length, …] -> […, n, length, …]; `n` has the layout of the full dimension."""
    axis, n, length = blocks
    cut_letters = f"{letters[: axis + 1]}.{letters[axis + 1 :]}"
    return _reshaped(x, cut_letters, (*x.shape[:axis], n, length, *x.shape[axis + 1 :]))


def _joined(x: Array, letters: str, blocks: Blocks) -> Array:
    """The inverse of `_cut`."""
    axis, n, length = blocks
    return _reshaped(x, letters, (*x.shape[:axis], n * length, *x.shape[axis + 2 :]))


def _reshaped(x: Array, letters: str, shape: tuple[int, ...]) -> Array:
    return jax.lax.reshape(x, shape, out_sharding=spec(letters, shape, at_rest=True))
