"""Named weights in nested dicts, and stacks of blocks applied by one `lax.scan`."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec
from jaxtyping import Array, Key

from model.execution import Execution, name
from model.layers.pipeline import by_stage, canonical_order, one_layer, pipeline, stage_order
from model.layers.rows import Rows
from model.sharding import letters_of, n_parts, on_host, platform, shard, zeros
from model.weights import nodes

Tree = dict[str, Any]
MakeBlock = Callable[[nnx.Rngs], nnx.Module]


def map_leaves(tree: Tree, change: Callable[[str, Any], tuple[str, Any]]) -> Tree:
    """A nested dict whose (name, leaf) pairs went through `change`."""
    return dict(
        (key, map_leaves(value, change)) if isinstance(value, dict) else change(key, value)
        for key, value in tree.items()
    )


def renamed(tree: Tree, new_name: Callable[[str], str]) -> Tree:
    """A nested dict under new names of its leaves and of the levels that hold one weight's arrays."""
    return {
        new_name(key): renamed(value, new_name) if isinstance(value, dict) else value
        for key, value in tree.items()
    }


def at_rest(tree: Tree, dtype: str) -> Tree:
    """Every leaf in `dtype` and in its layout at rest."""
    return map_leaves(
        tree, lambda name, x: (name, shard(x.astype(_dtype_of(name, dtype)), letters_of(name), at_rest=True))
    )


def in_use(tree: Tree, dtype: str) -> Tree:
    """Every leaf in `dtype`, gathered for its products: cast first, so that half the bytes travel. Weights
    of several arrays become nodes (model/weights.py).
    """

    def gathered(name: str, x: Array) -> tuple[str, Array]:
        return name, shard(fetched(x, _dtype_of(name, dtype)), letters_of(name))

    return nodes(map_leaves(tree, gathered))


def _dtype_of(name: str, dtype: str) -> str:
    """Routers stay float32: near 0.5 a bfloat16 has steps of 0.002, more than a bias moves in a step. Codes
    are int8 in use too: they travel as bytes, and are multiplied with their scales where they are used.
    """
    if name.startswith("codes"):
        return "int8"
    return "float32" if name.startswith("router") else dtype


def fetched(x: Array, dtype: str) -> Array:
    """Bit for bit `x.astype(dtype)`, on the device. On a TPU XLA would move a plain cast out of the scan
    and hold a copy of all layers.
    """
    if on_host(x):
        x = jax.device_put(x, jax.memory.Space.Device)
    if platform() == "tpu" and x.dtype == jnp.float32 and dtype == "bfloat16":
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
    """N blocks, one after the other; layer i is made by `blocks[i % len(blocks)]`, a repeating pattern with
    equal parameter shapes.

    On a mesh with stages the layers lie in `stage_order` (model/layers/pipeline.py); slots of a cache are
    in the order of the model.
    """

    def __init__(self, blocks: Sequence[MakeBlock], *, N: int, execution: Execution):
        self.blocks, self.N, self.execution = tuple(blocks)[:N], N, execution

    def init(self, key: Key[Array, ""], dtype: str) -> Tree:
        """Parameters of all layers; layer i depends on the key and i alone."""

        def born(layers_N: Array, key: Array) -> Tree:
            def one(_: None, i: Array) -> tuple[None, Tree]:
                rngs = nnx.Rngs(params=jax.random.fold_in(key, i))
                return None, at_rest(nnx.to_pure_dict(nnx.state(self.blocks[0](rngs))), dtype)

            return jax.lax.scan(one, None, layers_N)[1]

        if not self._staged:
            return stacked(born(jnp.arange(self.N), key))
        order_N = jnp.array(
            stage_order(self.N, stages=n_parts("N", at_rest=True), rounds=self.execution.pipeline.rounds)
        )
        return stacked(by_stage(born)(shard(order_N, "N", at_rest=True), key))

    def empty_slots(self, B: int, T: int, dtype: str) -> Tree:
        """Room for T tokens in all layers."""
        shapes = _definition(self.blocks[0]).slots(B, T)
        return {
            stacked_name(name): zeros(f".{letters_of(name)}", (self.N, *shape), dtype)
            for name, shape in shapes.items()
        }

    def apply(self, params: Tree, x_BLD: Array, rows: Rows, *, dtype: str) -> tuple[Array, Tree]:
        """All layers over whole rows: the last x, and their auxiliary sums stacked by N, in the order in
        memory.
        """
        layers = [partial(_apply_block, definition, dtype) for definition in self._definitions()]
        if self._staged:
            schedule = self.execution.pipeline
            how = {
                "remat": self.execution.remat.wrap,
                "rounds": schedule.rounds,
                "micro_batches": schedule.micro_batches,
            }
            return pipeline(layers, of_layer(params), x_BLD, rows, **how)

        def wrapped(layer: Callable[..., Any]) -> Callable[..., Any]:
            return self.execution.remat.wrap(lambda x_BLD, weights: layer(x_BLD, weights, rows))

        return self._scan([wrapped(layer) for layer in layers], x_BLD, of_layer(params))

    def decode(
        self, params: Tree, x_BLD: Array, rows: Rows, slots: Tree, *, dtype: str
    ) -> tuple[Array, Tree]:
        """All layers over new tokens, each with its slots of the cache: the last x, and the new slots."""
        weights, places_N = of_layer(params), jnp.arange(self.N)
        if self._staged:
            stages = {"stages": n_parts("N", at_rest=True), "rounds": self.execution.pipeline.rounds}
            places_N = jnp.array(canonical_order(self.N, **stages))

        def layer_of(definition: Any) -> Callable[..., tuple[Array, Tree]]:
            def layer(x_BLD: Array, own: Any) -> tuple[Array, Tree]:
                mine = one_layer(weights, own["place_N"]) if self._staged else own["weights"]
                return nnx.merge(definition, in_use(mine, dtype)).decode(x_BLD, rows, own["slots"])

            return layer

        own = {"place_N": places_N, "slots": of_layer(slots)} | ({} if self._staged else {"weights": weights})
        x_BLD, found = self._scan([layer_of(definition) for definition in self._definitions()], x_BLD, own)
        return x_BLD, stacked(found)

    @property
    def _staged(self) -> bool:
        return n_parts("N", self.N, at_rest=True) > 1

    def _definitions(self) -> list[Any]:
        return [nnx.split(_definition(block))[0] for block in self.blocks]

    def _scan(
        self, layers: list[Callable[..., tuple[Array, Tree]]], x: Array, own: Any
    ) -> tuple[Array, Tree]:
        """The scan runs over whole patterns; the layers after the last whole one follow it. Leaves of `own`
        are [N, …].
        """
        n_patterns = self.N // len(layers)

        def pattern(x: Array, these: Any) -> tuple[Array, tuple[Any, ...]]:
            outs = []
            for i, layer in enumerate(layers):
                x, out = layer(x, these if len(layers) == 1 else _at(these, i))
                outs.append(out)
            return x, tuple(outs)

        x, outs = jax.lax.scan(pattern, x, _by_pattern(own, len(layers), n_patterns))
        after = []
        for i in range(n_patterns * len(layers), self.N):
            x, out = layers[i % len(layers)](x, _at(own, i))
            after.append(out)
        return x, _in_order(outs, after)


def _apply_block(definition: Any, dtype: str, x_BLD: Array, weights: Tree, rows: Rows) -> tuple[Array, Tree]:
    return nnx.merge(definition, in_use(weights, dtype))(name(x_BLD, "residual"), rows)


def _at(tree: Any, i: int) -> Any:
    return jax.tree.map(lambda x: x[i], tree)


def _definition(block: MakeBlock) -> nnx.Module:
    return nnx.eval_shape(lambda: block(nnx.Rngs(0)))


def _by_pattern(tree: Any, n: int, n_patterns: int) -> Any:
    """[N, …] leaves -> [n_patterns, n, …], without the layers after the last whole pattern."""

    def split(x: Array) -> Array:
        whole = x if x.shape[0] == n * n_patterns else x[: n * n_patterns]
        layout = jax.typeof(x).sharding.spec.partitions
        return jax.lax.reshape(
            whole, (n_patterns, n, *x.shape[1:]), out_sharding=PartitionSpec(None, *layout)
        )

    return tree if n == 1 else jax.tree.map(split, tree)


def _in_order(outs: tuple[Any, ...], after: list[Any]) -> Any:
    """Outs of every position of the pattern, [n_patterns, …] each, and of the layers after it -> [N, …] in
    the order of the layers.
    """
    if len(outs) == 1:
        return outs[0]

    def join(*parts: Array) -> Array:
        x = jnp.stack(parts[: len(outs)], 1)
        layout = jax.typeof(x).sharding.spec.partitions
        x = jax.lax.reshape(
            x, (x.shape[0] * x.shape[1], *x.shape[2:]), out_sharding=PartitionSpec(None, *layout[2:])
        )
        return jnp.concatenate([x, *(part[None] for part in parts[len(outs) :])])

    return jax.tree.map(join, *outs, *after)
