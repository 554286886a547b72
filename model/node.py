"""The interface by which `einsum` and `look_up` use a weight of several arrays."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax


@runtime_checkable
class Node(Protocol):
    """A weight of several arrays (model/weights.py), which computes its own products and layouts."""

    def product(self, equation: str, x: jax.Array, *, dtype: Any = None) -> jax.Array:
        """The result of `einsum(equation, x, weight)`."""
        ...

    def rows(self, ids: jax.Array, letters: str) -> jax.Array:
        """The result of `look_up(weight, ids, letters)`."""
        ...

    def map(self, change: Callable[[jax.Array, str], Any], letters: str) -> Any:
        """The node with `change(array, its letters)` for each array; `letters` are those of the weight."""
        ...
