"""Hugging Face tensors → our parameters on the mesh, file by file, so that the host never holds more than a
file and some pieces.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding

from model.api import Params, leaf_name
from model.architecture import Architecture
from model.execution import Precision
from model.hugging_face.checkpoint import Checkpoint
from model.hugging_face.tensor import Tensor, own_letters, places, run_letters, take, their_shape
from model.sharding import letters_of, named

PIECE_BYTES = 64 << 20  # larger pieces are read in parts
# so much is put together on the host, where it needs no program compiled; the rest on the devices
HOST_BYTES = 256 << 20
# computed, not learned: some versions of transformers saved them
BUFFERS = re.compile(r"\.rotary_emb\.(inv_freq|(cos|sin)_cached)$|\.attn\.(masked_)?bias$")


Sizes = Mapping[str, int]  # letter → size
Bounds = tuple[tuple[int, int], ...]  # (start, stop) along every dimension


class Place(NamedTuple):
    """Where one of their tensors goes: a row of the table, and which layer and expert it is."""

    row: Tensor
    index: tuple[int, ...]


def load(architecture: Architecture, checkpoint: Checkpoint, *, params: str) -> Params:
    """The parameters of a checkpoint in dtype `params`, at rest on the current mesh. Call under
    `jax.set_mesh`.

    Raises:
        ValueError: a tensor is missing, of another shape, or unknown; all that is wrong is said before any
        device memory is taken.
    """
    shapes = parameter_shapes(architecture, params)
    sizes = {}
    for row in architecture.tensors():
        sizes[row.ours] = sizes_of(row, shapes[row.ours].shape, architecture)
    plan = checked_plan(architecture, checkpoint, sizes)
    targets = _targets(shapes)
    # a file is open once, and tensors are read in the order of their names, which is about that in the file
    for file in checkpoint.files:
        with file.open() as tensors:
            for name in sorted(file.shapes.keys() & plan.keys()):
                for place in plan[name]:
                    ours = place.row.ours
                    targets[ours].fill(tensors[name], place, sizes[ours])
    return _nested({name: target.finished() for name, target in targets.items()})


def parameter_shapes(
    architecture: Architecture,
    params: str,
) -> dict[str, jax.ShapeDtypeStruct]:
    """Dotted name → shape and dtype, of all parameters."""
    model = architecture.build(Precision(params=params))
    # shapes alone: nothing is drawn, however large the model
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return {leaf_name(path): leaf for path, leaf in jax.tree.leaves_with_path(shapes)}


def sizes_of(
    row: Tensor,
    shape: tuple[int, ...],
    architecture: Architecture,
) -> dict[str, int]:
    """Letter → size, of the letters of a row; of V the true vocabulary, for only ours is padded."""
    sizes = dict(zip(own_letters(row), shape, strict=True))
    if "V" in sizes:
        sizes["V"] = architecture.vocab_size
    return sizes


def checked_plan(
    architecture: Architecture,
    checkpoint: Checkpoint,
    sizes: Mapping[str, Sizes],
) -> dict[str, list[Place]]:
    """Their name → where it goes.

    Raises:
        ValueError: a tensor is missing, of another shape, or unknown.
    """
    stored = checkpoint.shapes()
    # everything that is wrong is collected, so that one download mends it all
    rows = architecture.tensors()
    prefix = _prefix_left_out(rows, stored)
    plan: dict[str, list[Place]] = {}
    misshapen = []
    for row in rows:
        expected = their_shape(row, sizes[row.ours])
        for index, theirs in places(row, sizes[row.ours]):
            name = theirs.removeprefix(prefix)
            # a fused tensor is part of several parameters, and an embedding may be stored twice
            plan.setdefault(name, []).append(Place(row, index))
            shape = stored.get(name, expected)  # what is missing is said below
            if shape != expected:
                shapes = f"{list(shape)}, not {list(expected)}"
                misshapen.append(f"{name} has shape {shapes} for our {row.ours}")
    missing = sorted(plan.keys() - stored.keys())
    extra = sorted(name for name in stored.keys() - plan.keys() if not _is_ignored(name, rows))
    if missing or extra or misshapen:
        raise ValueError(_disagreement(checkpoint, missing, extra, misshapen))
    return plan


def _disagreement(
    checkpoint: Checkpoint,
    missing: list[str],
    extra: list[str],
    misshapen: list[str],
) -> str:
    problems = []
    if missing:
        problems.append(f"no tensor {_some(missing)}")
    if extra:
        problems.append(f"unknown tensors {_some(extra)}")
    if misshapen:
        problems.append(_some(misshapen))
    kind = checkpoint.config.get("model_type")
    # what the usual quantized forms (fp8, GPTQ, AWQ, bitsandbytes) have beside their weights
    quantized = any(
        name.endswith(("_scale_inv", ".qweight", ".scales", ".absmax")) for name in extra
    )
    remedy = "download it again, or take the config.json that belongs to it"
    if quantized:
        remedy = "it is quantized: take the one in bfloat16"
    misfit = f"{checkpoint.path} does not fit model_type={kind!r} of its config"
    return f"{misfit}: {'; '.join(problems)}; {remedy}"


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def _prefix_left_out(rows: Sequence[Tensor], stored: Mapping[str, Any]) -> str:
    """`model.` or `transformer.`, where all of a checkpoint's names lack it, as those saved without the
    output matrix do.
    """
    of_layers = [row.theirs for row in rows if "{N}" in row.theirs]
    prefix = of_layers[0].split(".")[0] + "." if of_layers else ""
    return prefix if stored and not any(name.startswith(prefix) for name in stored) else ""


def _is_ignored(name: str, rows: Sequence[Tensor]) -> bool:
    """Computed buffers, and the copy of the embedding that some checkpoints of tied models have."""
    tied = all(row.ours != "unembed_DV" for row in rows)
    return bool(BUFFERS.search(name)) or (tied and name == "lm_head.weight")


def _targets(shapes: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, "_Target"]:
    mesh = jax.sharding.get_mesh()
    # in the order of the parameters, small ones on the host until its share is used up
    host_bytes = HOST_BYTES
    targets = {}
    for name, leaf in shapes.items():
        on_host = leaf.size * leaf.dtype.itemsize <= host_bytes
        targets[name] = _Target(name, leaf, mesh, on_host=on_host)
        host_bytes -= targets[name].host_bytes
    return targets


class _Target:
    """One parameter while it is filled: a buffer for each distinct piece of it on the devices of this
    process.
    """

    def __init__(
        self,
        name: str,
        leaf: jax.ShapeDtypeStruct,
        mesh: jax.sharding.Mesh,
        *,
        on_host: bool,
    ):
        self.shape = leaf.shape
        self.sharding = named(mesh, letters_of(name), leaf.shape, at_rest=True)
        # devices that hold the same piece (replicas) share its buffer: it is read once
        devices_of: dict[Bounds, list[jax.Device]] = {}
        for device, index in self.sharding.addressable_devices_indices_map(leaf.shape).items():
            # a slice over all of a dimension has no start and no stop
            cuts = [cut.indices(size) for cut, size in zip(index, leaf.shape, strict=True)]
            bounds = tuple((start, stop) for start, stop, _ in cuts)
            devices_of.setdefault(bounds, []).append(device)
        make = _HostBuffer if on_host else _DeviceBuffer
        piece_shapes = {
            bounds: tuple(stop - start for start, stop in bounds) for bounds in devices_of
        }
        self.buffers = {
            bounds: make(piece_shapes[bounds], leaf.dtype, devices)
            for bounds, devices in devices_of.items()
        }
        n_bytes = sum(map(math.prod, piece_shapes.values())) * leaf.dtype.itemsize
        self.host_bytes = n_bytes if on_host else 0

    def fill(self, theirs: Any, place: Place, sizes: Sizes) -> None:
        """Read of one of their tensors what the buffers here need."""
        row, index = place
        n_run = len(index)
        assert own_letters(row)[:n_run] == run_letters(row), (
            f"{row.ours}: letters that {row.theirs} runs over come first"
        )
        stored = own_letters(row)[n_run:]
        for bounds, buffer in self.buffers.items():
            run_bounds, stored_bounds = bounds[:n_run], bounds[n_run:]
            run_starts = [start for start, _ in run_bounds]
            offsets = [i - start for i, start in zip(index, run_starts, strict=True)]
            lengths = [stop - start for start, stop in run_bounds]
            if not all(0 <= i < n for i, n in zip(offsets, lengths, strict=True)):
                continue  # a layer or expert that these devices do not hold
            held = {
                # beyond the true size is padding of the vocabulary, which theirs does not have
                letter: (start, min(stop, sizes[letter]))
                for letter, (start, stop) in zip(stored, stored_bounds, strict=True)
            }
            for ranges in _pieces(held, stored, row):
                # indices in the buffer, where the run letters have length 1
                x = take(theirs, row, sizes, ranges)
                starts = [ranges[letter][0] - held[letter][0] for letter in stored]
                buffer.put(x[(None,) * n_run], (*offsets, *starts))

    def finished(self) -> jax.Array:
        """The parameter, when all its tensors have been read; the buffers are given up."""
        arrays = [array for buffer in self.buffers.values() for array in buffer.arrays()]
        self.buffers = {}
        # no copy: the devices' own arrays become the shards of one global array
        return jax.make_array_from_single_device_arrays(self.shape, self.sharding, arrays)


def _pieces(
    ranges: Mapping[str, tuple[int, int]],
    stored: tuple[str, ...],
    row: Tensor,
) -> Iterator[dict[str, tuple[int, int]]]:
    """`ranges` in pieces of at most PIECE_BYTES of float32, cut along the longest letter; nothing where a
    buffer holds only padding.
    """
    lengths = {letter: stop - start for letter, (start, stop) in ranges.items()}
    if any(n <= 0 for n in lengths.values()):
        return
    # the pairs of an interleaved head width are apart in ours: it is read in one piece
    divisible = [letter for letter in stored if not (row.interleaved and letter[0] == "A")]
    longest = max(divisible, key=lengths.__getitem__)
    start, stop = ranges[longest]
    numbers_a_step = math.prod(lengths.values()) // lengths[longest]
    step = max(1, PIECE_BYTES // (4 * numbers_a_step))
    for begin in range(start, stop, step):
        yield {**ranges, longest: (begin, min(begin + step, stop))}


class _HostBuffer:
    """Filled as a host array, then copied to its devices."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, devices: list[jax.Device]):
        # zeros, since no tensor of theirs fills the padding of the vocabulary
        self.x = np.zeros(shape, dtype)
        self.devices = devices

    def put(self, x: np.ndarray, starts: tuple[int, ...]) -> None:
        """Write a piece from `starts` on, in the buffer's dtype."""
        cuts = tuple(slice(start, start + n) for start, n in zip(starts, x.shape, strict=True))
        self.x[cuts] = x

    def arrays(self) -> list[jax.Array]:
        """One array for each device."""
        return [jax.device_put(self.x, device) for device in self.devices]


class _DeviceBuffer:
    """Filled on the devices, piece by piece in place: for what is too large to be put together on the
    host.
    """

    def __init__(self, shape: tuple[int, ...], dtype: Any, devices: list[jax.Device]):
        make = partial(jnp.zeros, shape, dtype)
        with no_mesh():
            self.buffers = [
                jax.jit(make, out_shardings=SingleDeviceSharding(device))() for device in devices
            ]

    def put(self, x: np.ndarray, starts: tuple[int, ...]) -> None:
        """Write a piece; waits, so that at most one piece is between host and device."""
        for i, buffer in enumerate(self.buffers):
            (device,) = buffer.devices()
            with no_mesh():
                self.buffers[i] = _write(buffer, jax.device_put(x, device), starts)
        # else the host would queue pieces faster than they travel, and hold them all
        jax.block_until_ready(self.buffers)

    def arrays(self) -> list[jax.Array]:
        """One array for each device."""
        return self.buffers


def no_mesh() -> AbstractContextManager[Any]:
    """Work on single devices, which jax refuses while a mesh of more of them is set."""
    empty = jax.sharding.Mesh(np.empty((), object), ())
    return jax.set_mesh(empty)


# donated: the buffer is changed in place, so that a device never holds two copies
@partial(jax.jit, donate_argnums=0)
def _write(buffer: jax.Array, x: jax.Array, starts: tuple[Any, ...]) -> jax.Array:
    return jax.lax.dynamic_update_slice(buffer, x.astype(buffer.dtype), starts)


def _nested(flat: Mapping[str, jax.Array]) -> Params:
    tree: Params = {}
    for name, x in flat.items():
        *path, last = name.split(".")
        node = tree
        for key in path:
            node = node.setdefault(key, {})
        node[last] = x
    return tree
