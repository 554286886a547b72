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

# factors of 2 on both sides of 0; what is smaller counts as 0, what is larger into the last bin
_SIZES = 2.0 ** np.arange(-30, 11)
EDGES = np.concatenate([-_SIZES[::-1], _SIZES])

Histograms = dict[str, tuple[np.ndarray, np.ndarray]]  # name -> (edges, counts), one edge more than counts


class Watch(BaseModel, frozen=True, extra="forbid", strict=True):
    """Norms of gradient, parameters and updates every `norms_every` steps, histograms of the first two
    every `histograms_every`; 0 = never.

    A group of parameters is one module of one layer of a stack (`blocks/03/attention`, with the norms named
    after it), and outside of stacks all that lies under one name of the top (`embed`, `norm`, `unembed`,
    `mtp`).
    """

    norms_every: NonNegativeInt = 50
    histograms_every: NonNegativeInt = 0

    def arrays(
        self, step: Int[Array, ""], params: Any, gradient: Any, updates: Any, *, rounds: int = 1
    ) -> dict[str, Array]:
        """In the compiled step that follows on `step` others, what `rows` reads: replicated, and zeros
        unless that step is watched.

        Each tree has a conditional of its own, so that none of them has to outlive the update; `rounds` are
        those of the pipeline.
        """
        norms = {"gradient": gradient, "parameter": params, "update": updates}
        found = {
            f"norms/{kind}": _every(self.norms_every, step, partial(norms_of, rounds=rounds), tree)
            for kind, tree in norms.items()
        }
        counts = {"gradient": gradient, "parameter": params}
        for kind, tree in counts.items():
            found[f"histograms/{kind}"] = _every(
                self.histograms_every, step, partial(counts_of, rounds=rounds), tree
            )
        return {f"{kind}/{group}": x for kind, groups in found.items() for group, x in groups.items()}

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
    """How many numbers of every group lie between two EDGES, as `norms_of` groups them; numbers that are
    not finite count nowhere.
    """
    inner, largest = EDGES[1:-1], np.finfo(np.float32).max
    bins = np.array([[-largest, *inner], [*inner, np.inf]], np.float32).T

    def between(edges: Array) -> dict[str, Array]:
        return _sums(tree, lambda x: ((x >= edges[0]) & (x < edges[1])).astype(jnp.float32), rounds)

    # bin after bin: all of them at once would be held in memory for every number
    return jax.tree.map(lambda counts: jnp.moveaxis(counts, 0, -1), jax.lax.map(between, bins))


def _sums(tree: Any, of: Callable[[Array], Array], rounds: int) -> dict[str, Array]:
    """Sums over the numbers of every group of what `of` makes of them."""
    found: dict[str, Array] = {}
    for path, x in jax.tree.leaves_with_path(tree):
        group = group_of(jax.tree_util.keystr(path, simple=True, separator="/"))
        total = jnp.sum(of(x.astype(jnp.float32)), tuple(range(group.endswith("_N"), x.ndim)))
        found[group] = found.get(group, 0.0) + jax.sharding.reshard(total, PartitionSpec())
    return in_model_order(found, rounds=rounds)


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
    digits = max(2, len(str(len(values) - 1)))
    return [(f"{stack}/{i:0{digits}}/{module}", value) for i, value in enumerate(values)]


def _every(n: int, step: Array, fn: Callable[[Any], dict[str, Array]], tree: Any) -> dict[str, Array]:
    """fn(tree) in every nth step, zeros in the others; nothing at all if n is 0."""
    if not n:
        return {}
    shapes = jax.eval_shape(fn, tree)
    return jax.lax.cond(
        (step + 1) % n == 0, fn, lambda _: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes), tree
    )
