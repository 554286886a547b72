"""Hugging Face tensors → our parameters on the mesh, file by file, so that the host never holds more than a
file and some pieces.
"""

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding

from model.api import Params, leaf_name
from model.execution import Precision
from model.hugging_face.checkpoint import Checkpoint
from model.hugging_face.tensor import Tensor, own_letters, places, run_letters, take, their_shape
from model.sharding import letters_of, named

PIECE_BYTES = 64 << 20  # larger pieces are read in parts
HOST_BYTES = (
    256 << 20
)  # so much is put together on the host, where it needs no program compiled; the rest on the devices
BUFFERS = re.compile(
    r"\.rotary_emb\.inv_freq$|\.attn\.(masked_)?bias$|\.rotary_emb\.(cos|sin)_cached$"
)  # computed, not learned


class Place(NamedTuple):
    """Where one of their tensors goes: a row of the table, and which layer and expert it is."""

    row: Tensor
    at: tuple[int, ...]


def load(architecture: Any, checkpoint: Checkpoint, *, params: str) -> Params:
    """The parameters of a checkpoint in dtype `params`, at rest on the current mesh. Call under
    `jax.set_mesh`.

    Raises:
        ValueError: a tensor is missing, of another shape, or unknown; all that is wrong is said before any
        device memory is taken.
    """
    shapes = parameter_shapes(architecture, params)
    sizes = {row.ours: sizes_of(row, shapes[row.ours].shape, architecture) for row in architecture.tensors()}
    plan = checked_plan(architecture, checkpoint, sizes)
    mesh, host_bytes, targets = jax.sharding.get_mesh(), HOST_BYTES, {}
    for name, leaf in shapes.items():
        targets[name] = target = _Target(
            name, leaf, mesh, on_host=leaf.size * leaf.dtype.itemsize <= host_bytes
        )
        host_bytes -= target.host_bytes
    for file in checkpoint.files:
        with file.open() as tensors:
            for name in sorted(file.shapes.keys() & plan.keys()):
                for place in plan[name]:
                    targets[place.row.ours].fill(tensors[name], place, sizes[place.row.ours])
    return _nested({name: target.finished() for name, target in targets.items()})


def parameter_shapes(architecture: Any, params: str) -> dict[str, jax.ShapeDtypeStruct]:
    """Dotted name → shape and dtype, of all parameters."""
    model = architecture.build(Precision(params=params))
    leaves = jax.tree.leaves_with_path(jax.eval_shape(model.init, jax.random.key(0)))
    return {leaf_name(path): leaf for path, leaf in leaves}


def sizes_of(row: Tensor, shape: tuple[int, ...], architecture: Any) -> dict[str, int]:
    """Letter → size, of the letters of a row; of V the true vocabulary, for only ours is padded."""
    sizes = dict(zip(own_letters(row), shape, strict=True))
    return sizes | {"V": architecture.vocab_size} if "V" in sizes else sizes


def checked_plan(
    architecture: Any, checkpoint: Checkpoint, sizes: Mapping[str, Mapping[str, int]]
) -> dict[str, list[Place]]:
    """Their name → where it goes.

    Raises:
        ValueError: a tensor is missing, of another shape, or unknown.
    """
    found = checkpoint.shapes()
    prefix = _prefix_left_out(architecture, found)
    plan: dict[str, list[Place]] = {}
    wrong = []
    for row in architecture.tensors():
        wanted = their_shape(row, sizes[row.ours])
        for at, theirs in places(row, sizes[row.ours]):
            name = theirs.removeprefix(prefix)
            plan.setdefault(name, []).append(Place(row, at))
            if name in found and found[name] != wanted:
                wrong.append(f"{name} has shape {list(found[name])}, not {list(wanted)} for our {row.ours}")
    missing = sorted(plan.keys() - found.keys())
    extra = sorted(name for name in found.keys() - plan.keys() if not _ignored(name, architecture))
    if missing or extra or wrong:
        raise ValueError(_disagreement(checkpoint, missing, extra, wrong))
    return plan


def _disagreement(checkpoint: Checkpoint, missing: list[str], extra: list[str], wrong: list[str]) -> str:
    said = [f"no tensor {_some(missing)}"] * bool(missing)
    said += [f"unknown tensors {_some(extra)}"] * bool(extra)
    said += [_some(wrong)] * bool(wrong)
    kind = checkpoint.config.get("model_type")
    quantized = any(name.endswith(("_scale_inv", ".qweight", ".scales", ".absmax")) for name in extra)
    remedy = (
        "it is quantized: take the one in bfloat16"
        if quantized
        else "download it again, or take the config.json that belongs to it"
    )
    return f"{checkpoint.path} does not fit model_type={kind!r} of its config: {'; '.join(said)}; {remedy}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _prefix_left_out(architecture: Any, found: Mapping[str, Any]) -> str:
    """`model.` or `transformer.`, where all of a checkpoint's names lack it, as those saved without the
    output matrix do.
    """
    names = [row.theirs for row in architecture.tensors()]
    prefix = next((name.split(".")[0] + "." for name in names if "{N}" in name), "")
    return prefix if found and not any(name.startswith(prefix) for name in found) else ""


def _ignored(name: str, architecture: Any) -> bool:
    return bool(BUFFERS.search(name)) or (name == "lm_head.weight" and getattr(architecture, "tied", False))


class _Target:
    """One parameter while it is filled: a buffer for each distinct part of it that lies on devices of this
    process.
    """

    def __init__(self, name: str, leaf: jax.ShapeDtypeStruct, mesh: jax.sharding.Mesh, *, on_host: bool):
        self.shape = leaf.shape
        self.sharding = named(mesh, letters_of(name), leaf.shape, at_rest=True)
        indices = self.sharding.addressable_devices_indices_map(leaf.shape)
        devices: dict[tuple[tuple[int, int], ...], list[jax.Device]] = {}
        for device, index in indices.items():
            bounds = tuple(
                (cut.start or 0, size if cut.stop is None else cut.stop)
                for cut, size in zip(index, leaf.shape, strict=True)
            )
            devices.setdefault(bounds, []).append(device)
        make = _HostBuffer if on_host else _DeviceBuffer
        self.buffers = {
            bounds: make(tuple(b - a for a, b in bounds), leaf.dtype, mine)
            for bounds, mine in devices.items()
        }
        n_bytes = sum(math.prod(b - a for a, b in bounds) for bounds in devices) * leaf.dtype.itemsize
        self.host_bytes = n_bytes if on_host else 0

    def fill(self, theirs: Any, place: Place, sizes: Mapping[str, int]) -> None:
        """Read what the parts here need of one of their tensors."""
        row, at = place
        rest = own_letters(row)[len(at) :]
        assert own_letters(row)[: len(at)] == run_letters(row), (
            f"{row.ours}: letters that {row.theirs} runs over come first"
        )
        for bounds, buffer in self.buffers.items():
            if not all(start <= i < stop for i, (start, stop) in zip(at, bounds, strict=False)):
                continue
            here = {
                letter: (start, min(stop, sizes[letter]))
                for letter, (start, stop) in zip(rest, bounds[len(at) :], strict=True)
            }
            offset = tuple(i - start for i, (start, _) in zip(at, bounds, strict=False))
            for ranges in _parts(here, rest, row):
                x = take(theirs, row, sizes, ranges)
                starts = tuple(ranges[letter][0] - here[letter][0] for letter in rest)
                buffer.put(x[(None,) * len(at)], (*offset, *starts))

    def finished(self) -> jax.Array:
        """The parameter."""
        arrays = [array for buffer in self.buffers.values() for array in buffer.arrays()]
        self.buffers = {}
        return jax.make_array_from_single_device_arrays(self.shape, self.sharding, arrays)


def _parts(
    ranges: Mapping[str, tuple[int, int]], rest: tuple[str, ...], row: Tensor
) -> Iterator[dict[str, tuple[int, int]]]:
    """`ranges` in parts of at most PIECE_BYTES of float32, cut along the longest letter; nothing where a
    part holds only padding.
    """
    lengths = {letter: stop - start for letter, (start, stop) in ranges.items()}
    if any(n <= 0 for n in lengths.values()):
        return
    letter = max(
        (letter for letter in rest if not (row.interleaved and letter[0] == "A")), key=lengths.__getitem__
    )
    (start, stop), others = ranges[letter], math.prod(lengths.values()) // lengths[letter]
    step = max(1, PIECE_BYTES // (4 * others))
    for begin in range(start, stop, step):
        yield {**ranges, letter: (begin, min(begin + step, stop))}


class _HostBuffer:
    """Filled as a host array, then copied to its devices."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, devices: list[jax.Device]):
        self.x, self.devices = np.zeros(shape, dtype), devices

    def put(self, x: np.ndarray, starts: tuple[int, ...]) -> None:
        """Write a piece."""
        self.x[tuple(slice(start, start + n) for start, n in zip(starts, x.shape, strict=True))] = x

    def arrays(self) -> list[jax.Array]:
        """One for each device."""
        return [jax.device_put(self.x, device) for device in self.devices]


class _DeviceBuffer:
    """Filled on the devices, piece by piece in place: for what is too large to be put together on the
    host.
    """

    def __init__(self, shape: tuple[int, ...], dtype: Any, devices: list[jax.Device]):
        make = partial(jnp.zeros, shape, dtype)
        with no_mesh():
            self.buffers = [jax.jit(make, out_shardings=SingleDeviceSharding(device))() for device in devices]

    def put(self, x: np.ndarray, starts: tuple[int, ...]) -> None:
        """Write a piece; waits, so that at most one piece lies between host and device."""
        for i, buffer in enumerate(self.buffers):
            (device,) = buffer.devices()
            with no_mesh():
                self.buffers[i] = _write(buffer, jax.device_put(x, device), starts)
        jax.block_until_ready(self.buffers)

    def arrays(self) -> list[jax.Array]:
        """One for each device."""
        return self.buffers


def no_mesh() -> AbstractContextManager[Any]:
    """Work on single devices, which jax refuses while a mesh of more of them is set."""
    return jax.set_mesh(jax.sharding.Mesh(np.empty((), object), ()))


@partial(jax.jit, donate_argnums=0)
def _write(buffer: jax.Array, x: jax.Array, starts: tuple[Any, ...]) -> jax.Array:
    return jax.lax.dynamic_update_slice(buffer, x.astype(buffer.dtype), starts)


def _nested(flat: Mapping[str, jax.Array]) -> Params:
    tree: Params = {}
    for name, x in flat.items():
        *path, last = name.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = x
    return tree
