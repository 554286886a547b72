"""Silent data corruption: copies that must be equal bit by bit, and computations that must repeat
themselves, are compared.

A chip that computes or keeps a wrong bit says nothing, and data parallelism spreads it (Dixit et al. 2021,
Hochschild et al. 2021).
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
    """A sentence for every leaf of which devices that hold the same part hold other bits; names devices,
    processes and the leaf.

    With three copies or more the minority is named, with two both. All processes call it together and get
    the same answer. Leaves that rest in the memory of the host are left out.
    """
    leaves = {
        leaf_name(path): as_numbers(x)
        for path, x in jax.tree.leaves_with_path(tree)
        if x.sharding.memory_kind != "pinned_host"
    }
    layouts = tuple(x.sharding.spec for x in leaves.values())
    found = _fetched(_fingerprints(mesh, layouts)(*leaves.values()))
    devices = mesh.devices.flatten().tolist()
    return [
        line
        for i, (name, x) in enumerate(leaves.items())
        for line in _differing(name, x, devices, found[:, i])
    ]


def make_replay(gradient: Callable[..., Any], mesh: Mesh) -> Callable[..., list[str]]:
    """Where nothing is replicated: `replay(state, batch)` computes `gradient(state, batch)` twice and
    compares the bits of every device.

    A sentence for every leaf that differs names the devices that hold other bits. If a third time differs
    from both, the program is not deterministic on these chips, and the sentence says that instead. Memory:
    one more gradient, while it runs.
    """

    @jax.jit
    def fingerprints(state: Any, batch: Any) -> Array:
        leaves = jax.tree.leaves(gradient(state, batch))
        return _fingerprints(mesh, tuple(jax.typeof(x).sharding.spec for x in leaves))(*leaves)

    def replay(state: Any, batch: Any) -> list[str]:
        first, second = (_fetched(fingerprints(state, batch)) for _ in range(2))
        if np.array_equal(first, second):
            return []
        third = _fetched(fingerprints(state, batch))
        if not (np.array_equal(first, third) or np.array_equal(second, third)):
            return [
                "a gradient computed three times came out in three ways; the program is not deterministic here, set guard.sdc_every=0"
            ]
        names = [
            leaf_name(path) for path, _ in jax.tree.leaves_with_path(jax.eval_shape(gradient, state, batch))
        ]
        wrong = {
            name: mesh.devices.flatten()[first[:, i] != second[:, i]].tolist() for i, name in enumerate(names)
        }
        return [
            f"the gradient of {name} came out in two ways on {_told(those)}"
            for name, those in wrong.items()
            if those
        ]

    return replay


@cache
def _fingerprints(
    mesh: Mesh, layouts: tuple[PartitionSpec, ...]
) -> Callable[..., UInt32[Array, "devices leaves"]]:
    """One number a leaf of each device's own part, without any communication."""

    def local(*parts: Array) -> Array:
        return jnp.stack([shard_fingerprint(part) for part in parts])[None]

    return jax.jit(
        jax.shard_map(
            local, mesh=mesh, in_specs=layouts, out_specs=PartitionSpec(mesh.axis_names), check_vma=False
        )
    )


def _differing(name: str, x: Array, devices: Sequence[jax.Device], prints: np.ndarray) -> list[str]:
    """The leaf's parts of which not all copies have one fingerprint."""
    copies = defaultdict[Hashable, dict[jax.Device, int]](dict)
    where = x.sharding.devices_indices_map(x.shape)
    for device, number in zip(devices, prints.tolist(), strict=True):
        copies[tuple(part.indices(size) for part, size in zip(where[device], x.shape, strict=True))][
            device
        ] = number
    return [_sentence(name, held) for held in copies.values() if len(set(held.values())) > 1]


def _sentence(name: str, held: dict[jax.Device, int]) -> str:
    (most, n), *_ = Counter(held.values()).most_common()
    wrong = [device for device, number in held.items() if number != most]
    if 2 * n > len(held):
        return f"{name} differs on {_told(wrong)} from its {n} other copies; take that device out, and go back to an earlier checkpoint"
    return f"the copies of {name} on {_told(list(held))} differ, and none is in the majority; go back to an earlier checkpoint"


def _told(devices: Sequence[jax.Device]) -> str:
    return ", ".join(f"device {device.id} of process {device.process_index}" for device in devices)


def _fetched(prints: Array) -> np.ndarray:
    """The numbers of all devices, in every process."""
    return (
        np.asarray(multihost_utils.process_allgather(prints, tiled=True))
        if jax.process_count() > 1
        else np.asarray(prints)
    )
