"""Rows: what every layer reads of its rows beside activations."""

from typing import NamedTuple

from jaxtyping import Array, Float, Int


class Rows(NamedTuple):
    """`rotations[name]` are the tables of each of the architecture's ropes; in decoding `lengths_B` are the
    tokens in the cache.
    """

    positions_BL: Int[Array, "B L"]
    segments_BL: Int[Array, "B L"]
    rotations: dict[str, Float[Array, "B L A2 2"]]
    lengths_B: Int[Array, "B"] | None = None
