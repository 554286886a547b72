"""One layer of a transformer."""

from collections.abc import Callable
from typing import Any

from flax import nnx
from jaxtyping import Array, Float

from model.architecture import LayerFacts
from model.layers.rows import Rows
from model.sharding import shard


class Block(nnx.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x)); with `post_norms`, what is added is
    normalised too (Gemma 2).

    Between products the residual stream is laid out `BlD`: positions are divided over `tensor` too, so that
    norms and sums of the residual stream are not computed twice.
    """

    def __init__(
        self,
        *,
        norm: Callable[[], nnx.Module],
        attention: nnx.Module,
        feed_forward: nnx.Module,
        post_norms: bool = False,
    ):
        # attributes name the parameters, as checkpoints and Hugging Face name tables know them
        self.attention_norm = norm()
        self.attention = attention
        self.feed_forward_norm = norm()
        self.feed_forward = feed_forward
        # without post norms there is no parameter at all, rather than a scale of 1
        self.attention_post_norm = norm() if post_norms else None
        self.feed_forward_post_norm = norm() if post_norms else None

    def __call__(
        self, x_BLD: Float[Array, "B L D"], rows: Rows
    ) -> tuple[Float[Array, "B L D"], dict[str, Any]]:
        """One layer over whole rows, and the auxiliary sums of its feed-forward layer."""
        # "BLD": products need all positions of a row, which are gathered over `tensor` here
        o_BLD = self.attention(shard(self.attention_norm(x_BLD), "BLD"), rows)
        x_BLD = x_BLD + _normed(self.attention_post_norm, o_BLD)
        return self._fed_forward(x_BLD, rows)

    def decode(
        self, x_BLD: Array, rows: Rows, slots: dict[str, Array]
    ) -> tuple[Array, dict[str, Array]]:
        """One layer over new tokens, with what this layer keeps of the earlier ones."""
        o_BLD, slots = self.attention.decode(shard(self.attention_norm(x_BLD), "BLD"), rows, slots)
        x_BLD = x_BLD + _normed(self.attention_post_norm, o_BLD)
        x_BLD, _ = self._fed_forward(x_BLD, rows)
        return x_BLD, slots

    def slots(self, B: int, T: int) -> dict[str, tuple[int, ...]]:
        """Shapes of what this layer keeps of T tokens."""
        return self.attention.slots(B, T)

    def facts(self) -> LayerFacts:
        """What this layer computes with."""
        return LayerFacts(self.attention.facts(), self.feed_forward.facts())

    def _fed_forward(self, x_BLD: Array, rows: Rows) -> tuple[Array, dict[str, Any]]:
        out_BLD, aux = self.feed_forward(shard(self.feed_forward_norm(x_BLD), "BLD"), rows)
        return x_BLD + _normed(self.feed_forward_post_norm, out_BLD), aux


def _normed(norm: nnx.Module | None, x_BLD: Array) -> Array:
    return x_BLD if norm is None else norm(x_BLD)
