"""What every attention kernel computes, and how it is called."""

from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Array, Bool, Float, Int

MASKED = (
    -1e30
)  # score of a key that is not seen; finite, so that a query without any key gives no NaN


class Maths(NamedTuple):
    """softmax(cap(scale · q·k)) · v, softmax in float32.

    Attributes:
        scale: Multiplies scores before the cap.
        window: How many positions, itself included, a position sees; None = all before it.
        soft_cap: Scores become soft_cap · tanh(scores / soft_cap); None = no cap.
    """

    scale: float
    window: int | None
    soft_cap: float | None


@runtime_checkable
class Attend(Protocol):
    """A kernel: attention within rows, in which position i sees j where `sees` says so.

    Queries have H heads, keys and values K, each shared by H / K heads of queries; values may have another
    width (A2). Unless a kernel says otherwise L is not sharded, and documents are in order: every position is
    one more than the one before, except in padding. `choose.attention_of` chooses and checks a kernel.
    """

    def __call__(
        self,
        q_BLHA: Float[Array, "B L H A"],
        k_BLKA: Float[Array, "B L K A"],
        v_BLKA: Float[Array, "B L K A2"],
        positions_BL: Int[Array, "B L"],
        segments_BL: Int[Array, "B L"],
        maths: Maths,
    ) -> Float[Array, "B L H A2"]:
        """The result of attention for every query head."""
        ...


def sees(
    positions_BL: Int[Array, "B L"],
    segments_BL: Int[Array, "B L"],
    positions_BT: Int[Array, "B T"],
    segments_BT: Int[Array, "B T"],
    window: int | None,
) -> Bool[Array, "B L T"]:
    """Which keys (T) each query (L) sees: those of its segment that are not later, nor `window` or more
    positions back. Padding (segment 0) sees only padding.
    """
    distance_BLT = positions_BL[:, :, None] - positions_BT[:, None, :]
    seen_BLT = (segments_BL[:, :, None] == segments_BT[:, None, :]) & (distance_BLT >= 0)
    return seen_BLT if window is None else seen_BLT & (distance_BLT < window)
