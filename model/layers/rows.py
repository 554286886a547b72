"""What every layer knows of the rows that it works on."""

from typing import NamedTuple

from jaxtyping import Array, Float, Int


class Rows(NamedTuple):
    """`rotations[name]` are the tables of a rope that the architecture declares; `lengths_B` is what a
    cache holds, when decoding.
    """

    positions_BL: Int[Array, "B L"]
    segments_BL: Int[Array, "B L"]
    rotations: dict[str, Float[Array, "B L A2 2"]]
    lengths_B: Int[Array, "B"] | None = None
