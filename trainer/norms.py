"""What a step shows of its insides at intervals: norms by layer, and histograms."""

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

# Bins of histograms are factors of 2 on both sides of 0. Below 2^-30 a number counts as 0; above 2^10 it
# counts into the last bin.
_SIZES = 2.0 ** np.arange(-30, 11)
EDGES = np.concatenate([-_SIZES[::-1], _SIZES])

Histograms = dict[str, tuple[np.ndarray, np.ndarray]]  # name -> (edges, counts), one edge more than counts


class Watch(BaseModel, frozen=True, extra="forbid", strict=True):
    """Norms of gradient, parameters and updates every `norms_every` steps, histograms of the first two
    every `histograms_every`; 0 = never.

    A group of parameters is one module of one layer of a stack (`blocks/03/attention`, with the norms named
    after it), and outside of stacks all that is under one name of the top (`embed`, `norm`, `unembed`,
    `mtp`).
    """

    norms_every: NonNegativeInt = 50
    histograms_every: NonNegativeInt = 0

    def arrays(
        self, step: Int[Array, ""], params: Any, gradient: Any, updates: Any, *, rounds: int = 1
    ) -> dict[str, Array]:
        """What `rows` reads of the compiled step after `step` others: replicated, and zeros unless that step
        is watched. `rounds` are those of the pipeline.
        """
        norms = partial(norms_of, rounds=rounds)
        counts = partial(counts_of, rounds=rounds)
        # A conditional for each tree: with one for all, every tree would have to outlive the update.
        groups_of = {
            "norms/gradient": _every(self.norms_every, step, norms, gradient),
            "norms/parameter": _every(self.norms_every, step, norms, params),
            "norms/update": _every(self.norms_every, step, norms, updates),
            "histograms/gradient": _every(self.histograms_every, step, counts, gradient),
            "histograms/parameter": _every(self.histograms_every, step, counts, params),
        }
        return {f"{kind}/{group}": x for kind, groups in groups_of.items() for group, x in groups.items()}

    def rows(self, number: int, arrays: Mapping[str, Any]) -> tuple[dict[str, float], Histograms]:
        """What `arrays` gave in step `number`, by layer; nothing is fetched from the devices unless that
        step is watched.
        """
        row: dict[str, float] = {}
        histograms: Histograms = {}
        every = {"norms": self.norms_every, "histograms": self.histograms_every}
        for name, x in arrays.items():
            what = name.split("/")[0]
            if number % every[what]:
                continue
            for group, value in _by_layer(name, np.asarray(x)):
                if what == "norms":
                    row[group] = float(value)
                else:
                    histograms[group] = (EDGES, value)
        return row, histograms


def norms_of(tree: Any, *, rounds: int = 1) -> dict[str, Float[Array, "*N"]]:
    """The norm of every group; of the groups of a stack, `blocks/attention_N`, one for each layer, in the
    order of the model.
    """
    return jax.tree.map(jnp.sqrt, _sums(tree, jnp.square, rounds))


def counts_of(tree: Any, *, rounds: int = 1) -> dict[str, Float[Array, "*N bins"]]:
    """How many numbers of every group are between two EDGES, as `norms_of` groups them; NaN and infinities
    count nowhere.
    """
    # The outermost bins are open, so they end at the largest float32 and at infinity.
    largest = np.finfo(np.float32).max
    inner = EDGES[1:-1]
    bins = np.array([[-largest, *inner], [*inner, np.inf]], np.float32).T

    def between(edges: Array) -> dict[str, Array]:
        def inside(x: Array) -> Array:
            return ((x >= edges[0]) & (x < edges[1])).astype(jnp.float32)

        return _sums(tree, inside, rounds)

    # bin after bin: all of them at once would be in memory for every number
    by_bin = jax.lax.map(between, bins)
    return jax.tree.map(lambda counts: jnp.moveaxis(counts, 0, -1), by_bin)


def _sums(tree: Any, fn: Callable[[Array], Array], rounds: int) -> dict[str, Array]:
    """Sums of fn over the numbers of every group, replicated."""
    sums: dict[str, Array] = {}
    for path, x in jax.tree.leaves_with_path(tree):
        group = group_of(jax.tree_util.keystr(path, simple=True, separator="/"))
        first = 1 if group.endswith("_N") else 0  # layers stay apart
        total = jnp.sum(fn(x.astype(jnp.float32)), tuple(range(first, x.ndim)))
        sums[group] = sums.get(group, 0.0) + jax.sharding.reshard(total, PartitionSpec())
    return in_model_order(sums, rounds=rounds)


def group_of(leaf: str) -> str:
    """`blocks/attention_norm/scale_ND` -> `blocks/attention_N`, one for each layer; `embed_VD` -> `embed`."""
    top, *inside = (_stem(key) for key in leaf.split("/"))
    if not letters_of(leaf).startswith("N"):
        return top
    return f"{top}/{inside[0].removesuffix('_norm').removesuffix('_post')}_N"


def _stem(key: str) -> str:
    return key.rsplit("_", 1)[0] if letters_of(key) else key


def _by_layer(name: str, values: np.ndarray) -> list[tuple[str, Any]]:
    if not name.endswith("_N"):
        return [(name, values)]
    stack, module = name.removesuffix("_N").rsplit("/", 1)
    digits = max(2, len(str(len(values) - 1)))  # so that names sort as layers do
    return [(f"{stack}/{i:0{digits}}/{module}", value) for i, value in enumerate(values)]


def _every(n: int, step: Array, fn: Callable[[Any], dict[str, Array]], tree: Any) -> dict[str, Array]:
    """fn(tree) in every nth step, zeros in the others; nothing at all if n is 0."""
    if not n:
        return {}
    shapes = jax.eval_shape(fn, tree)

    def zeros(_: Any) -> dict[str, Array]:
        return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    # steps are numbered from 1, `step` counts those before this one
    return jax.lax.cond((step + 1) % n == 0, fn, zeros, tree)
