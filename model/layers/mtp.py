"""Multi-token prediction (DeepSeek-AI 2024, DeepSeek-V3 §2.2): small modules after the model, each of which
predicts one token further ahead.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Num

from model.api import ModelInputs, key_of
from model.architecture import LayerFacts
from model.execution import Execution
from model.layers.rows import Rows
from model.layers.stack import MakeBlock
from model.layers.stacked_names import Tree
from model.layers.weight import at_rest, in_use, weight
from model.mesh import undivided
from model.sharding import einsum, shard


class Module(nnx.Module):
    """Joins hidden states with embeddings of later tokens, and applies a block and a norm (eq. 21-23).

    As with the released weights, the model's hidden states are taken after its last norm. Embedding and
    output matrix are the model's own.
    """

    def __init__(self, *, D: int, norm: Callable[[], nnx.Module], block: MakeBlock, rngs: nnx.Rngs):
        self.embed_norm = norm()
        self.hidden_norm = norm()
        self.norm = norm()
        # fan_in 2 · D: the two products are added
        self.w_embed_DD2 = weight(rngs, "DD", (D, D), fan_in=2 * D)
        self.w_hidden_DD2 = weight(rngs, "DD", (D, D), fan_in=2 * D)
        self.block = block(rngs)

    def __call__(
        self, hidden_BLD: Float[Array, "B L D"], embedded_BLD: Float[Array, "B L D"], rows: Rows
    ) -> tuple[Array, dict[str, Any]]:
        """Hidden states, laid out `BlD` as both operands are, and the auxiliary sums of the block."""
        x_BLD, aux = self.block(self.join(hidden_BLD, embedded_BLD), rows)
        return self.norm(x_BLD), aux

    def join(
        self, hidden_BLD: Float[Array, "B L D"], embedded_BLD: Float[Array, "B L D"]
    ) -> Float[Array, "B L D"]:
        """The input of the block: eq. 21 as a sum of two products, instead of one of concatenated vectors."""
        # the output width is written W, since an equation cannot have two D
        x_BLD = einsum("BlD,DW->BlW", self.embed_norm(embedded_BLD), self.w_embed_DD2[...])
        return x_BLD + einsum("BlD,DW->BlW", self.hidden_norm(hidden_BLD), self.w_hidden_DD2[...])


class MultiToken(NamedTuple):
    """A chain of `depths` modules; module k predicts the token k + 1 ahead. `module` makes one of them."""

    module: Callable[[nnx.Rngs], Module]
    depths: int
    execution: Execution

    def init(self, key: Array, dtype: str) -> Tree:
        """Parameters by depth; they are not stacked, as the few modules are not divided over stages."""

        def make(name: str) -> Tree:
            module = self.module(nnx.Rngs(params=key_of(key, name)))
            return at_rest(nnx.to_pure_dict(nnx.state(module)), dtype)

        names = [_name(depth) for depth in range(1, self.depths + 1)]
        return {name: make(name) for name in names}

    def facts(self) -> tuple[LayerFacts, ...]:
        """Heads, widths and experts of each module's block."""
        with undivided():
            return (self._abstract_module().block.facts(),) * self.depths

    def inputs(self, inputs: ModelInputs) -> tuple[ModelInputs, ...]:
        """The inputs of each depth's module beside hidden states, for rows in reading order.

        A position whose later token is not in its own segment is padding for the module: it is not joined
        with another document's token, and experts do not count it.
        """

        def at(depth: int) -> ModelInputs:
            continues_BL = goes_on(inputs.segments_BL, inputs.positions_BL, depth)
            segments_BL = jnp.where(continues_BL, inputs.segments_BL, 0)
            media = inputs.media
            if media is not None:
                # patches move with the shifted tokens; those moved off the row become unused
                slot_BJ = jnp.maximum(media.slot_BJ - depth, -1)
                media = media._replace(slot_BJ=slot_BJ)
            return ModelInputs(
                ahead(inputs.tokens_BL, depth), inputs.positions_BL, segments_BL, media
            )

        return tuple(at(depth) for depth in range(1, self.depths + 1))

    def apply(
        self,
        params: Tree,
        hidden_BLD: Float[Array, "B L D"],
        later: Sequence[tuple[Array, Rows]],
        *,
        dtype: str,
    ) -> tuple[tuple[Array, ...], dict[str, dict[str, Any]]]:
        """Hidden states of every depth, laid out `BLD`, and the auxiliary sums by depth; `later` are
        embedded tokens and rows by depth.
        """
        definition = nnx.split(self._abstract_module())[0]

        def module(
            x_BLD: Array, weights: Tree, embedded_BLD: Array, rows: Rows
        ) -> tuple[Array, dict[str, Any]]:
            return nnx.merge(definition, in_use(weights, dtype))(x_BLD, embedded_BLD, rows)

        rematerialised = self.execution.remat.wrap(module)
        # hidden states have the loss's layout, while blocks expect `BlD`
        x_BLD = shard(hidden_BLD, "BlD")
        hidden, aux = [], {}
        # each module reads the hidden states of the one before
        for depth, (embedded_BLD, rows) in enumerate(later, 1):
            weights = params[_name(depth)]
            x_BLD, aux[_name(depth)] = rematerialised(x_BLD, weights, embedded_BLD, rows)
            hidden.append(shard(x_BLD, "BLD"))
        return tuple(hidden), aux

    def _abstract_module(self) -> Module:
        return nnx.eval_shape(lambda: self.module(nnx.Rngs(0)))


def _name(depth: int) -> str:
    return f"depth{depth}"


def goes_on(
    segments_BL: Int[Array, "B L"], positions_BL: Int[Array, "B L"], n: int
) -> Bool[Array, "B L"]:
    """Whether the position n later in the row belongs to the same segment."""
    same_segment_BL = segments_BL == ahead(segments_BL, n)
    # `ahead` wraps around: in a row of a single segment the first position would count as a later one
    is_later_BL = positions_BL < ahead(positions_BL, n)
    return same_segment_BL & is_later_BL


def ahead(x_BL: Num[Array, "B L"], n: int) -> Num[Array, "B L"]:
    """x shifted n positions to the left along the row; the end wraps around to the start."""
    # jnp.roll does not support a sharded dimension: `T` is a position that is not sharded
    return shard(jnp.roll(shard(x_BL, "BT"), -n, 1), "BL")
