"""Silent data corruption: compare copies that must be equal bit for bit, and repeat computations.

A chip that computes or stores a wrong bit may report nothing, and data parallelism spreads the error to all
others (Dixit et al. 2021, Hochschild et al. 2021).
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, UInt32

from model.api import leaf_name
from trainer.fingerprints import as_numbers, shard_fingerprint


def check(tree: Any, mesh: Mesh) -> list[str]:
    """A sentence for every leaf whose replicas differ: devices hold different bits of the same shard.

    It names the leaf, and the devices and processes of the minority, or all where there is no majority. All
    processes must call it together, and get the same answer. Leaves in host memory are left out.
    """
    leaves = {}
    for path, x in jax.tree.leaves_with_path(tree):
        if x.sharding.memory_kind != "pinned_host":
            leaves[leaf_name(path)] = as_numbers(x)
    layouts = tuple(x.sharding.spec for x in leaves.values())
    # only fingerprints are sent: comparing the arrays themselves would send all of them
    prints = _of_all_processes(_fingerprints(mesh, layouts)(*leaves.values()))
    devices = mesh.devices.flatten().tolist()
    sentences = []
    for i, (name, x) in enumerate(leaves.items()):
        sentences += _differing(name, x, devices, prints[:, i])
    return sentences


def make_replay(gradient: Callable[..., Any], mesh: Mesh) -> Callable[..., list[str]]:
    """Make `replay(state, batch)`: compute `gradient(state, batch)` twice and compare each device's bits.

    It finds wrong devices even where nothing is replicated: a sentence for every leaf that differs names
    them. If a third result differs from both, the program is not deterministic on these chips, and the
    sentence says that instead. While it runs it needs memory for one more gradient.
    """

    @jax.jit
    def fingerprints(state: Any, batch: Any) -> Array:
        leaves = jax.tree.leaves(gradient(state, batch))
        layouts = tuple(jax.typeof(x).sharding.spec for x in leaves)
        return _fingerprints(mesh, layouts)(*leaves)

    def replay(state: Any, batch: Any) -> list[str]:
        first = _of_all_processes(fingerprints(state, batch))
        second = _of_all_processes(fingerprints(state, batch))
        if np.array_equal(first, second):
            return []
        # A program that is not deterministic gives other bits each time; a bad chip gets most results right.
        third = _of_all_processes(fingerprints(state, batch))
        is_repeated = np.array_equal(first, third) or np.array_equal(second, third)
        if not is_repeated:
            return [
                "a gradient computed three times gave three results; the program is not deterministic here, "
                "set health.sdc_every=0"
            ]
        shapes = jax.eval_shape(gradient, state, batch)
        devices = mesh.devices.flatten()
        sentences = []
        for i, (path, _) in enumerate(jax.tree.leaves_with_path(shapes)):
            wrong = devices[first[:, i] != second[:, i]].tolist()
            if wrong:
                sentences.append(
                    f"the gradient of {leaf_name(path)} came out in two ways on {_named(wrong)}"
                )
        return sentences

    return replay


@cache
def _fingerprints(
    mesh: Mesh, layouts: tuple[PartitionSpec, ...]
) -> Callable[..., UInt32[Array, "devices leaves"]]:
    """A fingerprint of each device's own shard of each leaf, without any communication."""

    def local(*shards: Array) -> Array:
        return jnp.stack([shard_fingerprint(shard) for shard in shards])[None]

    # The result is sharded over all axes, so that row i is device i's even for replicated leaves. check_vma
    # would reject that.
    out_specs = PartitionSpec(mesh.axis_names)
    return jax.jit(
        jax.shard_map(local, mesh=mesh, in_specs=layouts, out_specs=out_specs, check_vma=False)
    )


def _differing(name: str, x: Array, devices: Sequence[jax.Device], prints: np.ndarray) -> list[str]:
    """A sentence for each shard of a leaf whose copies have different fingerprints."""
    copies = defaultdict[Hashable, dict[jax.Device, int]](dict)  # bounds of a shard -> its copies
    slices_of = x.sharding.devices_indices_map(x.shape)
    for device, number in zip(devices, prints.tolist(), strict=True):
        slices = zip(slices_of[device], x.shape, strict=True)
        # explicit bounds: slice(None) and slice(0, size) mean the same shard
        bounds = tuple(cut.indices(size) for cut, size in slices)
        copies[bounds][device] = number
    return [
        _sentence(name, prints_of)
        for prints_of in copies.values()
        if len(set(prints_of.values())) > 1
    ]


def _sentence(name: str, prints_of: dict[jax.Device, int]) -> str:
    (commonest, n_equal), *_ = Counter(prints_of.values()).most_common()
    wrong = [device for device, number in prints_of.items() if number != commonest]
    if 2 * n_equal > len(prints_of):
        return (
            f"{name} differs on {_named(wrong)} from its {n_equal} other copies; take that device out, and "
            "go back to an earlier checkpoint"
        )
    return (
        f"the copies of {name} on {_named(list(prints_of))} differ, and none is in the majority; go back to "
        "an earlier checkpoint"
    )


def _named(devices: Sequence[jax.Device]) -> str:
    return ", ".join(f"device {device.id} of process {device.process_index}" for device in devices)


def _of_all_processes(prints: Array) -> np.ndarray:
    """The fingerprints of all devices, in every process."""
    if jax.process_count() == 1:
        return np.asarray(prints)
    return np.asarray(multihost_utils.process_allgather(prints, tiled=True))
