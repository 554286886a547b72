"""Block-wise dynamic quantization to 8 bits (Dettmers et al. 2021).

Codes cover seven (signed) or eight (unsigned) decades, the upper ones most finely: a code c = 2^i + k with
k < 2^i stands for 10^(i - top) · (0.1 + 0.9 · (k + 1) / 2^i) times the largest magnitude of its block, and 0
for 0. The paper uses the midpoints of intervals, we their upper ends: a block's largest number is then exact,
and does not shrink each time it is quantized again. Codes are computed rather than looked up in a table of
256 entries, whose lookups would need a layout on the mesh.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from model.sharding import ALPHABET, letters_of, spec
from model.size import is_matrix

SMALLEST_BLOCK = 32  # numbers; with a scale of 4 bytes each, 28 % of what two float32 moments take
SMALLEST_LEAF = 4096  # numbers; smaller parameters stay in float32, as in the paper
# a dimension that a mesh may shard has a multiple of so many blocks, so that no block is split over devices
BLOCKS_MULTIPLE = 8


class Blocks(NamedTuple):
    """How a parameter is divided: along dimension `axis`, into `n` blocks of `length` numbers."""

    axis: int
    n: int
    length: int


def blocks_of(name: str, shape: tuple[int, ...]) -> Blocks | None:
    """The blocks of a parameter; None where it stays in float32.

    They depend on letters and sizes alone, so that any mesh can resume. They run along the last dimension
    that is not D, which large meshes shard most. Their number is the largest power of two that divides the
    size and leaves blocks of at least 32 numbers.
    """
    letters = letters_of(name)
    if not is_matrix(name) or len(shape) != len(letters) or math.prod(shape) < SMALLEST_LEAF:
        return None
    axis = max(i for i, letter in enumerate(letters) if i != letters.find("D"))
    size = shape[axis]
    powers = [2**i for i in range(size.bit_length())]
    # powers of two alone, since mesh axes are powers of two
    n = max((n for n in powers if size % n == 0 and size >= SMALLEST_BLOCK * n), default=0)
    # a mesh axis shards only the first occurrence of a repeated letter
    may_be_divided = ALPHABET[letters[axis]].at_rest and letters.index(letters[axis]) == axis
    if n == 0 or (may_be_divided and n % BLOCKS_MULTIPLE):
        return None
    return Blocks(axis, n, size // n)


def quantized(
    x: Float[Array, "..."], letters: str, blocks: Blocks, dtype: Any
) -> tuple[Array, Float[Array, "..."]]:
    """(codes in the shape and layout of x, the largest magnitude of each block).

    int8 has a sign, uint8 is for x >= 0. In uint8 positive numbers get a code of at least 1: a second moment
    rounded to 0 would make the next update as large as the gradient over epsilon. Zeros stay 0.
    """
    x = _cut(x, letters, blocks)
    scale = jnp.max(jnp.abs(x), axis=blocks.axis + 1)
    largest = jnp.expand_dims(scale, blocks.axis + 1)
    # max: a block of zeros must not give NaN
    unit = jnp.abs(x) / jnp.maximum(largest, jnp.finfo(x.dtype).tiny)
    top = _top(dtype)
    # the decade; 0 also for everything below the lowest
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
    i = 31 - jax.lax.clz(jnp.maximum(code, 1))  # floor(log2(code)), the decade
    unit = 10.0 ** (i - top) * (0.1 + 0.9 * (code + 1 - 2**i) / 2**i)
    sign = jnp.sign(codes).astype(scale.dtype)
    x = sign * jnp.where(code > 0, unit, 0) * jnp.expand_dims(scale, blocks.axis + 1)
    return _joined(x, letters, blocks)


def _top(dtype: Any) -> int:
    """The highest exponent: 6 beside a sign, 7 without."""
    return 6 if dtype == jnp.int8 else 7


def _cut(x: Array, letters: str, blocks: Blocks) -> Array:
    """[…, n · length, …] -> […, n, length, …]; `n` is sharded as the full dimension was."""
    axis, n, length = blocks
    cut_letters = f"{letters[: axis + 1]}.{letters[axis + 1 :]}"
    return _reshaped(x, cut_letters, (*x.shape[:axis], n, length, *x.shape[axis + 1 :]))


def _joined(x: Array, letters: str, blocks: Blocks) -> Array:
    """The inverse of `_cut`."""
    axis, n, length = blocks
    return _reshaped(x, letters, (*x.shape[:axis], n * length, *x.shape[axis + 2 :]))


def _reshaped(x: Array, letters: str, shape: tuple[int, ...]) -> Array:
    return jax.lax.reshape(x, shape, out_sharding=spec(letters, shape, at_rest=True))
