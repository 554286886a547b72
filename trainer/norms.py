"""Norms and histograms of gradients, parameters and updates by layer, logged at intervals."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int
from pydantic import BaseModel, NonNegativeInt

from model.sharding import letters_of
from model.stages import in_model_order

# Bin edges: powers of 2 on both sides of 0. Numbers below 2^-30 share the bin around 0, those beyond 2^10
# count in the outer bins.
_SIZES = 2.0 ** np.arange(-30, 11)
EDGES = np.concatenate([-_SIZES[::-1], _SIZES])

# name -> (edges, counts), one edge more than counts
Histograms = dict[str, tuple[np.ndarray, np.ndarray]]


class Watch(BaseModel, frozen=True, extra="forbid", strict=True):
    """Norms and histograms of groups of parameters; 0 = never.

    A group is one module of one layer of a stack (`blocks/03/attention`, with the norms named after it);
    outside of stacks it is everything under one top-level name (`embed`, `norm`, `unembed`, `mtp`).

    Attributes:
        norms_every: Steps between norms of gradient, parameters and updates.
        histograms_every: Steps between histograms of gradient and parameters.
    """

    norms_every: NonNegativeInt = 50
    histograms_every: NonNegativeInt = 0

    def arrays(
        self, step: Int[Array, ""], params: Any, gradient: Any, updates: Any, *, rounds: int = 1
    ) -> dict[str, Array]:
        """The replicated arrays that `rows` reads; traced in the compiled step that follows `step` others.

        They are zeros unless that step is watched. `rounds` is how often a microbatch passes the pipeline's
        stages.
        """
        # A conditional for each tree: a single one would keep all trees in memory until the update is done.
        groups_of: dict[str, dict[str, Array]] = {}
        norms = partial(norms_of, rounds=rounds)
        for kind, tree in (("gradient", gradient), ("parameter", params), ("update", updates)):
            groups_of[f"norms/{kind}"] = _every(self.norms_every, step, norms, tree)
        counts = partial(counts_of, rounds=rounds)
        for kind, tree in (("gradient", gradient), ("parameter", params)):
            groups_of[f"histograms/{kind}"] = _every(self.histograms_every, step, counts, tree)
        return {
            f"{kind}/{group}": x
            for kind, groups in groups_of.items()
            for group, x in groups.items()
        }

    def rows(self, number: int, arrays: Mapping[str, Any]) -> tuple[dict[str, float], Histograms]:
        """(metrics, histograms) by layer, from what `arrays` gave in step `number`.

        Nothing is fetched from the devices unless that step is watched.
        """
        row: dict[str, float] = {}
        histograms: Histograms = {}
        intervals = {"norms": self.norms_every, "histograms": self.histograms_every}
        for name, x in arrays.items():
            kind = name.split("/")[0]
            # no division by 0: with an interval of 0 `arrays` gave nothing of this kind
            if number % intervals[kind]:
                continue
            for group, value in _by_layer(name, np.asarray(x)):
                if kind == "norms":
                    row[group] = float(value)
                else:
                    histograms[group] = (EDGES, value)
        return row, histograms


def norms_of(tree: Any, *, rounds: int = 1) -> dict[str, Float[Array, "*N"]]:
    """The norm of every group; `blocks/attention_N` holds one for each layer, in the order of the model."""
    return jax.tree.map(jnp.sqrt, _sums(tree, jnp.square, rounds))


def counts_of(tree: Any, *, rounds: int = 1) -> dict[str, Float[Array, "*N bins"]]:
    """How many numbers of every group lie between two EDGES, grouped as by `norms_of`.

    NaN and infinity count nowhere.
    """
    inner = EDGES[1:-1]
    # The outer bins take all finite numbers: the first begins at -largest, which excludes -inf, and the last
    # ends below inf.
    largest = np.finfo(np.float32).max
    bins = np.array([[-largest, *inner], [*inner, np.inf]], np.float32).T

    def count_between(edges: Array) -> dict[str, Array]:
        return _sums(tree, lambda x: ((x >= edges[0]) & (x < edges[1])).astype(jnp.float32), rounds)

    # A loop over bins: all at once would need memory for a mask of every bin.
    counts = jax.lax.map(count_between, bins)
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1), counts)


def _sums(tree: Any, of: Callable[[Array], Array], rounds: int) -> dict[str, Array]:
    """Sums of `of(numbers)` over every group; of the groups of a stack one for each layer."""
    sums: dict[str, Array] = {}
    for path, x in jax.tree.leaves_with_path(tree):
        group = group_of(jax.tree_util.keystr(path, simple=True, separator="/"))
        first_dim = 1 if group.endswith("_N") else 0
        # In float32: bfloat16 would keep only 8 bits of every square.
        total = jnp.sum(of(x.astype(jnp.float32)), tuple(range(first_dim, x.ndim)))
        # Replicated, since the host reads it; N may be sharded over pipeline stages.
        sums[group] = sums.get(group, 0.0) + jax.sharding.reshard(total, PartitionSpec())
    return in_model_order(sums, rounds=rounds)


def group_of(leaf: str) -> str:
    """`blocks/attention_norm/scale_ND` -> `blocks/attention_N`, one for each layer; `embed_VD` -> `embed`."""
    top, *inside = (_stem(key) for key in leaf.split("/"))
    if not letters_of(leaf).startswith("N"):
        return top
    # a norm belongs to the module that reads it, or whose output it scales
    module = inside[0].removesuffix("_norm").removesuffix("_post")
    return f"{top}/{module}_N"


def _stem(key: str) -> str:
    """`attention_norm` stays, `wq_NDHA` becomes `wq`: a name without its letters."""
    return key.rsplit("_", 1)[0] if letters_of(key) else key


def _by_layer(name: str, values: np.ndarray) -> list[tuple[str, Any]]:
    """`norms/gradient/blocks/attention_N` -> (`norms/gradient/blocks/03/attention`, value) for each layer."""
    if not name.endswith("_N"):
        return [(name, values)]
    stack, module = name.removesuffix("_N").rsplit("/", 1)
    digits = max(2, len(str(len(values) - 1)))  # leading zeros, so that names sort in layer order
    return [(f"{stack}/{i:0{digits}}/{module}", value) for i, value in enumerate(values)]


def _every(
    n: int, step: Array, fn: Callable[[Any], dict[str, Array]], tree: Any
) -> dict[str, Array]:
    """fn(tree) in every nth step, zeros in the others; nothing at all if n is 0."""
    if n == 0:
        return {}
    # both branches of `cond` must give the same shapes and dtypes
    shapes = jax.eval_shape(fn, tree)

    def zeros(_: Any) -> dict[str, Array]:
        return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    # + 1: `step` counts the steps before this one, while the log numbers steps from 1.
    return jax.lax.cond((step + 1) % n == 0, fn, zeros, tree)
