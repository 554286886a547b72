"""A batch in parts, one after the other: the activations of a single part exist at a time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from model.sharding import letters_of, reshape


def split_rows(batch: Any, n: int) -> Any:
    """[B, …] -> [n, B/n, …]; part i is rows i::n of each shard, so that no row moves between devices."""

    def split(x: Any, letters: str) -> Any:
        B, *rest = x.shape
        # The outer of the two keeps B's layout; "." is a dimension that no mesh axis divides.
        return jnp.moveaxis(reshape(x, (B // n, n, *rest), f"B.{letters[1:]}"), 1, 0)

    fields = zip(batch._fields, batch, strict=True)
    return type(batch)(*(split(x, letters_of(name)) for name, x in fields))


def sum_over_micro_batches(
    fn: Callable[[Any, Key[Array, ""]], Any], batch: Any, n: int, key: Key[Array, ""]
) -> Any:
    """The sum of fn(rows, key) over `n` parts of a batch, each with a key of its own."""
    numbered = (jnp.arange(n), split_rows(batch, n))

    def of_part(part: tuple[Array, Any]) -> Any:
        i, rows = part
        return fn(rows, jax.random.fold_in(key, i))

    def add(total: Any, part: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, of_part(part)), None

    first = jax.tree.map(lambda x: x[0], numbered)
    # A scan's carry keeps one shape, dtype and layout, which its start must have already.
    zero = zeros_of(jax.eval_shape(of_part, first))
    total, _ = jax.lax.scan(add, zero, numbered)
    return total


def zeros_of(shapes: Any) -> Any:
    """Zeros of these shapes, in their layouts."""

    def zeros(s: jax.ShapeDtypeStruct) -> jax.Array:
        # a constant, such as a weight of 1.0, has none
        layout = s.sharding.spec if s.sharding else None
        return jnp.zeros(s.shape, s.dtype, out_sharding=layout)

    return jax.tree.map(zeros, shapes)
