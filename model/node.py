"""What `einsum` and `look_up` ask of a weight that is several arrays."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax


@runtime_checkable
class Node(Protocol):
    """A weight of several arrays (model/weights.py), which knows its own products and layouts."""

    def product(self, equation: str, x: jax.Array, *, dtype: Any = None) -> jax.Array:
        """What `einsum` gives for x and the weight."""
        ...

    def rows(self, ids: jax.Array, letters: str) -> jax.Array:
        """What `look_up` gives for the weight as a table."""
        ...

    def map(self, change: Callable[[jax.Array, str], Any], letters: str) -> Any:
        """A node of what `change` makes of each array and its letters."""
        ...
