"""A stack of blocks: the weights of N layers in arrays [N, …], applied by one `lax.scan`."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Key

from model.architecture import LayerFacts
from model.execution import Execution, name
from model.layers.pattern import scan_pattern
from model.layers.pipeline import by_stage, canonical_order, one_layer, pipeline, stage_order
from model.layers.rows import Rows
from model.layers.stacked_names import Tree, of_layer, stacked, stacked_name
from model.layers.weight import at_rest, in_use
from model.mesh import undivided
from model.sharding import letters_of, n_parts, shard, zeros

MakeBlock = Callable[[nnx.Rngs], nnx.Module]


class Stack:
    """N blocks, one after the other; layer i is made by `blocks[i % len(blocks)]`, a repeating pattern of
    blocks with equal parameter shapes.

    On a mesh with stages the layers are in memory in `stage_order` (pipeline.py); slots of a cache are in
    the order of the model.
    """

    def __init__(self, blocks: Sequence[MakeBlock], *, N: int, execution: Execution):
        self.blocks = tuple(blocks)[:N]
        self.N = N
        self.execution = execution

    def init(self, key: Key[Array, ""], dtype: str) -> Tree:
        """Weights of all layers; those of layer i depend on the key and i alone."""

        def make_layers(layers_N: Array, key: Array) -> Tree:
            def make(_: None, i: Array) -> tuple[None, Tree]:
                # fold_in and not split, whose keys would depend on N and on the order in memory
                rngs = nnx.Rngs(params=jax.random.fold_in(key, i))
                weights = nnx.to_pure_dict(nnx.state(self.blocks[0](rngs)))
                return None, at_rest(weights, dtype)

            # a scan compiles one layer, however many there are
            return jax.lax.scan(make, None, layers_N)[1]

        if not self._is_staged:
            return stacked(make_layers(jnp.arange(self.N), key))
        layers_N = shard(self._order(stage_order), "N", at_rest=True)
        return stacked(by_stage(make_layers)(layers_N, key))

    def apply(self, params: Tree, x_BLD: Array, rows: Rows, *, dtype: str) -> tuple[Array, Tree]:
        """All layers over whole rows: the last x, and their auxiliary sums [N, …], in the order in memory."""

        def layer(definition: Any, x_BLD: Array, weights: Tree, rows: Rows) -> tuple[Array, Tree]:
            # gathered inside of the scan: a device has the whole weights of one layer at a time (ZeRO-3)
            block = nnx.merge(definition, in_use(weights, dtype))
            return block(name(x_BLD, "residual"), rows)

        layers = [partial(layer, definition) for definition in self._definitions()]
        weights, remat = of_layer(params), self.execution.remat.wrap
        if self._is_staged:
            schedule = dict(self.execution.pipeline)  # rounds, micro_batches
            return pipeline(layers, weights, x_BLD, rows, remat=remat, **schedule)
        # rows are the same for every layer: closed over, they are no part of what the scan slices
        rematerialised = [remat(partial(layer, rows=rows)) for layer in layers]
        return scan_pattern(rematerialised, x_BLD, weights, N=self.N)

    def decode(
        self, params: Tree, x_BLD: Array, rows: Rows, slots: Tree, *, dtype: str
    ) -> tuple[Array, Tree]:
        """All layers over new tokens, each with its slots of the cache: the last x, and the new slots."""
        weights = of_layer(params)
        # a scan cannot go over weights that are divided over stages: it goes over their places in memory,
        # and each layer is fetched from its stage
        scanned = self._order(canonical_order) if self._is_staged else weights

        def layer(definition: Any, x_BLD: Array, own: tuple[Any, Tree]) -> tuple[Array, Tree]:
            layer_weights, layer_slots = own
            if self._is_staged:
                layer_weights = one_layer(weights, place=layer_weights)
            block = nnx.merge(definition, in_use(layer_weights, dtype))
            return block.decode(x_BLD, rows, layer_slots)

        layers = [partial(layer, definition) for definition in self._definitions()]
        x_BLD, new_slots = scan_pattern(layers, x_BLD, (scanned, of_layer(slots)), N=self.N)
        return x_BLD, stacked(new_slots)

    def empty_slots(self, B: int, T: int, dtype: str) -> Tree:
        """Room for T tokens of B rows in all layers."""
        shapes = _abstract(self.blocks[0]).slots(B, T)
        # `.`: decoding scans over the layers, which must not be divided over stages
        return {
            stacked_name(name): zeros(f".{letters_of(name)}", (self.N, *shape), dtype)
            for name, shape in shapes.items()
        }

    def facts(self) -> tuple[LayerFacts, ...]:
        """What each of the N layers computes with."""
        with undivided():  # asked before there is a mesh, and of sizes that none may divide
            pattern = [_abstract(block).facts() for block in self.blocks]
        return tuple(pattern[i % len(pattern)] for i in range(self.N))

    @property
    def _is_staged(self) -> bool:
        return n_parts("N", self.N, at_rest=True) > 1

    def _order(self, order: Callable[..., Any]) -> Array:
        stages = n_parts("N", at_rest=True)
        return jnp.array(order(self.N, stages=stages, rounds=self.execution.pipeline.rounds))

    def _definitions(self) -> list[Any]:
        """The structure of each block of the pattern, which `nnx.merge` joins with weights."""
        return [nnx.split(_abstract(block))[0] for block in self.blocks]


def _abstract(block: MakeBlock) -> nnx.Module:
    # shapes alone: no number of the seed is ever drawn
    return nnx.eval_shape(lambda: block(nnx.Rngs(0)))
