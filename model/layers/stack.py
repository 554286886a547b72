"""Named weights in nested dicts, and stacks of blocks applied by one `lax.scan`."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec
from jaxtyping import Array, Key

from model.architecture import LayerFacts
from model.execution import Execution, name
from model.layers.pipeline import by_stage, canonical_order, one_layer, pipeline, stage_order
from model.layers.rows import Rows
from model.sharding import letters_of, n_parts, on_host, platform, shard, undivided, zeros
from model.weights import nodes

Tree = dict[str, Any]
MakeBlock = Callable[[nnx.Rngs], nnx.Module]


def map_leaves(tree: Tree, change: Callable[[str, Any], tuple[str, Any]]) -> Tree:
    """A nested dict of what `change` makes of each (name, leaf)."""
    pairs = (
        (key, map_leaves(value, change)) if isinstance(value, dict) else change(key, value)
        for key, value in tree.items()
    )
    return dict(pairs)


def renamed(tree: Tree, new_name: Callable[[str], str]) -> Tree:
    """A nested dict under new names of its leaves and of the levels that hold one weight's arrays."""
    return {
        new_name(key): renamed(value, new_name) if isinstance(value, dict) else value
        for key, value in tree.items()
    }


def at_rest(tree: Tree, dtype: str) -> Tree:
    """Every leaf in `dtype` and in its layout at rest."""

    def laid_out(name: str, x: Array) -> tuple[str, Array]:
        cast = x.astype(_dtype_of(name, dtype))
        return name, shard(cast, letters_of(name), at_rest=True)

    return map_leaves(tree, laid_out)


def in_use(tree: Tree, dtype: str) -> Tree:
    """Every leaf in `dtype`, gathered for its products: cast first, so that half the bytes travel. Weights
    of several arrays become nodes (model/weights.py).
    """

    def gathered(name: str, x: Array) -> tuple[str, Array]:
        cast = fetched(x, _dtype_of(name, dtype))
        return name, shard(cast, letters_of(name))

    return nodes(map_leaves(tree, gathered))


def _dtype_of(name: str, dtype: str) -> str:
    """Routers stay float32: near 0.5 a bfloat16 has steps of 0.002, more than a bias moves in a step. Codes
    are int8 in use too: they travel as bytes, and are multiplied with their scales where they are used.
    """
    if name.startswith("codes"):
        return "int8"
    is_factor = name == "scale"  # of a low-rank update: a single number, which weighs nothing
    return "float32" if is_factor or name.startswith("router") else dtype


def fetched(x: Array, dtype: str) -> Array:
    """Bit for bit `x.astype(dtype)`, on the device. On a TPU XLA would move a plain cast out of the scan
    and hold a copy of all layers.
    """
    if on_host(x):
        x = jax.device_put(x, jax.memory.Space.Device)
    if platform() == "tpu" and x.dtype == jnp.float32 and dtype == "bfloat16":
        # rounds to the bits of a bfloat16 (8 of exponent, 7 of mantissa) and is not moved; the cast that
        # follows is then exact
        x = jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)
    return x.astype(dtype)


def stacked_name(name: str) -> str:
    """`w_up_DF` -> `w_up_NDF`: the weight of every layer of a stack. A name without letters stays."""
    if not letters_of(name):
        return name
    stem, letters = name.rsplit("_", 1)
    return f"{stem}_N{letters}"


def layer_name(name: str) -> str:
    """`w_up_NDF` -> `w_up_DF`: the weight of one layer of a stack. A number a layer loses its letter."""
    if not letters_of(name):
        return name
    stem, letters = name.rsplit("_N", 1)
    return f"{stem}_{letters}" if letters else stem


def stacked(tree: Tree) -> Tree:
    """Leaves of all layers under their names in a stack."""
    return renamed(tree, stacked_name)


def of_layer(tree: Tree) -> Tree:
    """Leaves of all layers under the names that one layer gives them."""
    return renamed(tree, layer_name)


class Stack:
    """N blocks, one after the other; layer i is made by `blocks[i % len(blocks)]`, a repeating pattern of
    blocks with equal parameter shapes.

    On a mesh with stages the layers are stored in `stage_order` (model/layers/pipeline.py); slots of a cache
    are in the order of the model.
    """

    def __init__(self, blocks: Sequence[MakeBlock], *, N: int, execution: Execution):
        self.blocks = tuple(blocks)[:N]
        self.N = N
        self.execution = execution

    def init(self, key: Key[Array, ""], dtype: str) -> Tree:
        """Parameters of all layers; layer i depends on the key and i alone."""

        def make_layers(layers_N: Array, key: Array) -> Tree:
            def make(_: None, i: Array) -> tuple[None, Tree]:
                # fold_in and not split, whose keys would depend on N and on the order in memory
                rngs = nnx.Rngs(params=jax.random.fold_in(key, i))
                params = nnx.to_pure_dict(nnx.state(self.blocks[0](rngs)))
                return None, at_rest(params, dtype)

            # a scan compiles one layer, however many there are
            return jax.lax.scan(make, None, layers_N)[1]

        if not self._is_staged:
            return stacked(make_layers(jnp.arange(self.N), key))
        stages = n_parts("N", at_rest=True)
        order_N = jnp.array(
            stage_order(self.N, stages=stages, rounds=self.execution.pipeline.rounds)
        )
        return stacked(by_stage(make_layers)(shard(order_N, "N", at_rest=True), key))

    def empty_slots(self, B: int, T: int, dtype: str) -> Tree:
        """Room for T tokens in all layers."""
        shapes = _definition(self.blocks[0]).slots(B, T)

        # `.`: decoding scans over the layers, which must not be divided over stages
        def empty(name: str, shape: tuple[int, ...]) -> Array:
            return zeros(f".{letters_of(name)}", (self.N, *shape), dtype)

        return {stacked_name(name): empty(name, shape) for name, shape in shapes.items()}

    def facts(self) -> tuple[LayerFacts, ...]:
        """What each of the N layers computes with."""
        with undivided():  # asked before there is a mesh, and of sizes that none may divide
            pattern = [_definition(block).facts() for block in self.blocks]
        return tuple(pattern[i % len(pattern)] for i in range(self.N))

    def apply(self, params: Tree, x_BLD: Array, rows: Rows, *, dtype: str) -> tuple[Array, Tree]:
        """All layers over whole rows: the last x, and their auxiliary sums [N, …], in the order in memory."""
        layers = [partial(_apply_block, definition, dtype) for definition in self._definitions()]
        remat = self.execution.remat
        if self._is_staged:
            schedule = self.execution.pipeline
            return pipeline(
                layers,
                of_layer(params),
                x_BLD,
                rows,
                remat=remat.wrap,
                rounds=schedule.rounds,
                micro_batches=schedule.micro_batches,
            )

        def rematerialised(layer: Callable[..., Any]) -> Callable[..., Any]:
            # rows are the same for every layer: closed over, they are no part of what the scan slices
            return remat.wrap(lambda x_BLD, weights: layer(x_BLD, weights, rows))

        return self._scan([rematerialised(layer) for layer in layers], x_BLD, of_layer(params))

    def decode(
        self, params: Tree, x_BLD: Array, rows: Rows, slots: Tree, *, dtype: str
    ) -> tuple[Array, Tree]:
        """All layers over new tokens, each with its slots of the cache: the last x, and the new slots."""
        weights, staged = of_layer(params), self._is_staged
        own = {"slots": of_layer(slots)}  # what each layer has of its own, [N, …]
        if staged:
            # a scan cannot go over weights that are divided over stages: it goes over their places instead,
            # and each layer is fetched from its stage
            stages = n_parts("N", at_rest=True)
            order = canonical_order(self.N, stages=stages, rounds=self.execution.pipeline.rounds)
            own["place_N"] = jnp.array(order)
        else:
            own["weights"] = weights

        def decoder_of(definition: Any) -> Callable[..., tuple[Array, Tree]]:
            def layer(x_BLD: Array, own: Any) -> tuple[Array, Tree]:
                layer_weights = one_layer(weights, own["place_N"]) if staged else own["weights"]
                block = nnx.merge(definition, in_use(layer_weights, dtype))
                return block.decode(x_BLD, rows, own["slots"])

            return layer

        layers = [decoder_of(definition) for definition in self._definitions()]
        x_BLD, new_slots = self._scan(layers, x_BLD, own)
        return x_BLD, stacked(new_slots)

    @property
    def _is_staged(self) -> bool:
        return n_parts("N", self.N, at_rest=True) > 1

    def _definitions(self) -> list[Any]:
        return [nnx.split(_definition(block))[0] for block in self.blocks]

    def _scan(
        self, layers: list[Callable[..., tuple[Array, Tree]]], x: Array, own: Any
    ) -> tuple[Array, Tree]:
        """The scan runs over whole patterns; the layers of a last, shorter pattern follow it. Leaves of
        `own` are [N, …].
        """
        n_patterns = self.N // len(layers)

        def pattern(x: Array, pattern_own: Any) -> tuple[Array, tuple[Any, ...]]:
            outs = []
            for i, layer in enumerate(layers):
                layer_own = pattern_own if len(layers) == 1 else _at(pattern_own, i)
                x, out = layer(x, layer_own)
                outs.append(out)
            return x, tuple(outs)

        x, outs = jax.lax.scan(pattern, x, _by_pattern(own, len(layers), n_patterns))
        last_outs = []
        for i in range(n_patterns * len(layers), self.N):
            x, out = layers[i % len(layers)](x, _at(own, i))
            last_outs.append(out)
        return x, _in_order(outs, last_outs)


def _apply_block(
    definition: Any, dtype: str, x_BLD: Array, weights: Tree, rows: Rows
) -> tuple[Array, Tree]:
    # gathered inside of the scan: a device has the whole weights of one layer at a time (ZeRO-3)
    block = nnx.merge(definition, in_use(weights, dtype))
    return block(name(x_BLD, "residual"), rows)


def _at(tree: Any, i: int) -> Any:
    return jax.tree.map(lambda x: x[i], tree)


def _definition(block: MakeBlock) -> nnx.Module:
    # only the shapes are wanted: no number of the seed is ever drawn
    return nnx.eval_shape(lambda: block(nnx.Rngs(0)))


def _by_pattern(tree: Any, n: int, n_patterns: int) -> Any:
    """[N, …] leaves -> [n_patterns, n, …], without the layers of a last, shorter pattern."""

    def split(x: Array) -> Array:
        # not sliced where nothing is left over: a slice is a copy of the stack's weights
        whole_patterns = x if x.shape[0] == n * n_patterns else x[: n * n_patterns]
        layout = jax.typeof(x).sharding.spec.partitions
        shape = (n_patterns, n, *x.shape[1:])
        return jax.lax.reshape(whole_patterns, shape, out_sharding=PartitionSpec(None, *layout))

    return tree if n == 1 else jax.tree.map(split, tree)


def _in_order(outs: tuple[Any, ...], last_outs: list[Any]) -> Any:
    """Outs of every position of the pattern, [n_patterns, …] each, and of the layers behind the last whole
    pattern -> [N, …] in the order of the layers.
    """
    if len(outs) == 1:
        return outs[0]

    def join(*arrays: Array) -> Array:
        by_position, last = arrays[: len(outs)], arrays[len(outs) :]
        # axis 1: pattern after pattern, and in each by position, is the order of the layers
        x = jnp.stack(by_position, 1)
        layout = jax.typeof(x).sharding.spec.partitions
        shape = (x.shape[0] * x.shape[1], *x.shape[2:])
        x = jax.lax.reshape(x, shape, out_sharding=PartitionSpec(None, *layout[2:]))
        return jnp.concatenate([x, *(layer[None] for layer in last)])

    return jax.tree.map(join, *outs, *last_outs)
