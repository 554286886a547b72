"""Load Hugging Face tensors as our parameters on the mesh, one piece after the other, so that the host holds
little of them at a time.
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
from model.hugging_face.tied import has_own_output
from model.sharding import letters_of, named

PIECE_BYTES = 64 << 20  # a tensor is read in pieces of at most this size
# Parameters of this total size are assembled on the host, which needs no compiled program; the others on the
# devices.
HOST_BYTES = 256 << 20
FLOATS = ("F64", "F32", "F16", "BF16")  # in the words of safetensors
# Computed buffers, not parameters: some versions of transformers saved them.
BUFFERS = re.compile(r"\.rotary_emb\.(inv_freq|(cos|sin)_cached)$|\.attn\.(masked_)?bias$")


Sizes = Mapping[str, int]  # letter → size
Bounds = tuple[tuple[int, int], ...]  # (start, stop) along every dimension


class Place(NamedTuple):
    """Where one of their tensors goes: a row of the table, and the index of its layer and expert."""

    row: Tensor
    index: tuple[int, ...]


def load(architecture: Architecture, checkpoint: Checkpoint, *, params: str) -> Params:
    """The parameters of a checkpoint in dtype `params`, at rest on the current mesh. Call under
    `jax.set_mesh`.

    Raises:
        ValueError: a tensor is missing, of another shape, or unknown; raised before any device memory is
            allocated, and listing all such tensors.
    """
    shapes = parameter_shapes(architecture, params)
    sizes = {}
    for row in architecture.tensors():
        sizes[row.ours] = sizes_of(row, shapes[row.ours].shape, architecture)
    plan = checked_plan(architecture, checkpoint, sizes)
    _check_tie(architecture.tensors(), checkpoint)
    targets = _targets(shapes)
    # each file is opened once; tensors are read in the order of their names, roughly that in the file
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
    """Dotted name → shape and dtype of every parameter; nothing is allocated."""
    model = architecture.build(Precision(params=params))
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return {leaf_name(path): leaf for path, leaf in jax.tree.leaves_with_path(shapes)}


def sizes_of(
    row: Tensor,
    shape: tuple[int, ...],
    architecture: Architecture,
) -> dict[str, int]:
    """Letter → size of a row's letters; for V without padding, which only ours has."""
    sizes = dict(zip(own_letters(row), shape, strict=True))
    if "V" in sizes:
        sizes["V"] = architecture.vocab_size
    return sizes


def checked_plan(
    architecture: Architecture,
    checkpoint: Checkpoint,
    sizes: Mapping[str, Sizes],
) -> dict[str, list[Place]]:
    """Their name → all places where the tensor goes.

    Raises:
        ValueError: a tensor is missing, of another shape, or unknown.
    """
    stored = checkpoint.shapes()
    # All problems are collected, so that they are reported together.
    rows = architecture.tensors()
    _check_number(rows, checkpoint, sizes)
    prefix = _prefix_left_out(rows, stored)
    plan: dict[str, list[Place]] = {}
    misshapen = []
    for row in rows:
        expected = their_shape(row, sizes[row.ours])
        for index, theirs in places(row, sizes[row.ours]):
            name = theirs.removeprefix(prefix)
            # several places: a fused tensor goes into several parameters
            plan.setdefault(name, []).append(Place(row, index))
            shape = stored.get(name, expected)  # missing tensors are reported below
            if shape != expected:
                shapes = f"{list(shape)}, not {list(expected)}"
                misshapen.append(f"{name} has shape {shapes} for our {row.ours}")
    dtypes = checkpoint.dtypes()
    misshapen += [
        f"{name} is stored as {dtypes[name]}, integers or 8-bit floats that need scales"
        for name in plan
        if dtypes.get(name, FLOATS[0]) not in FLOATS
    ]
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
    of_integers = any("need scales" in problem for problem in misshapen)
    # names that fp8, GPTQ, AWQ and bitsandbytes checkpoints have beside their weights
    quantized = of_integers or any(
        name.endswith(("_scale_inv", ".qweight", ".scales", ".absmax")) for name in extra
    )
    remedy = "download it again, or take the config.json that belongs to it"
    if quantized:
        remedy = "it is quantized: take the one in bfloat16"
    misfit = f"{checkpoint.path} does not fit model_type={kind!r} of its config"
    return f"{misfit}: {'; '.join(problems)}; {remedy}"


def _check_number(
    rows: Sequence[Tensor], checkpoint: Checkpoint, sizes: Mapping[str, Sizes]
) -> None:
    """Refuse a config with far more layers or experts than there are tensors, before they are listed."""
    n_stored = len(checkpoint.shapes())
    n_named = sum(math.prod(sizes[row.ours][letter] for letter in run_letters(row)) for row in rows)
    # several rows may read a tensor, and a few may be missing, which is said by name
    if n_named > 100 * (n_stored + 100):
        what = (
            f"config.json describes some {n_named:,} tensors, and {checkpoint.path} has {n_stored}"
        )
        raise ValueError(f"{what}; take the config.json that belongs to it")


def _check_tie(rows: Sequence[Tensor], checkpoint: Checkpoint) -> None:
    is_tied = all(row.ours != "unembed_DV" for row in rows)
    if is_tied and has_own_output(checkpoint):
        what = "tie_word_embeddings is true, and its lm_head.weight differs from the embedding"
        raise ValueError(f"{checkpoint.path}: {what}; set it to false in config.json")


def _some(names: list[str]) -> str:
    # a damaged header may have names of any length, with line breaks in them
    shown = ", ".join(f"{name if name.isprintable() else repr(name):.150}" for name in names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def _prefix_left_out(rows: Sequence[Tensor], stored: Mapping[str, Any]) -> str:
    """`model.` or `transformer.` if no name of the checkpoint starts with it, as when a model was saved
    without its head; else "".
    """
    of_layers = [row.theirs for row in rows if "{N}" in row.theirs]
    prefix = of_layers[0].split(".")[0] + "." if of_layers else ""
    return prefix if stored and not any(name.startswith(prefix) for name in stored) else ""


def _is_ignored(name: str, rows: Sequence[Tensor]) -> bool:
    """Whether a tensor is a computed buffer, or the copy of the embedding that some tied checkpoints have."""
    tied = all(row.ours != "unembed_DV" for row in rows)
    return bool(BUFFERS.search(name)) or (tied and name == "lm_head.weight")


def _targets(shapes: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, "_Target"]:
    mesh = jax.sharding.get_mesh()
    # on the host in the order of the parameters, as long as HOST_BYTES allow
    host_bytes = HOST_BYTES
    targets = {}
    for name, leaf in shapes.items():
        on_host = leaf.size * leaf.dtype.itemsize <= host_bytes
        targets[name] = _Target(name, leaf, mesh, on_host=on_host)
        host_bytes -= targets[name].host_bytes
    return targets


class _Target:
    """A parameter while it is filled: a buffer for each distinct shard on the devices of this process."""

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
        # devices with the same shard (replicas) share a buffer, so that it is read once
        devices_of: dict[Bounds, list[jax.Device]] = {}
        for device, index in self.sharding.addressable_devices_indices_map(leaf.shape).items():
            # `indices` fills in start and stop, which are None in a slice over a whole dimension
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
        """Read from one of their tensors what the buffers of this process need."""
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
                # min: ours may be padded (the vocabulary), theirs is not
                letter: (start, min(stop, sizes[letter]))
                for letter, (start, stop) in zip(stored, stored_bounds, strict=True)
            }
            for ranges in _pieces(held, stored, row):
                # start indices in the buffer; the piece has length 1 along the run letters
                x = take(theirs, row, sizes, ranges)
                starts = [ranges[letter][0] - held[letter][0] for letter in stored]
                buffer.put(x[(None,) * n_run], (*offsets, *starts))

    def finished(self) -> jax.Array:
        """The parameter, after all its tensors were read; releases the buffers."""
        arrays = [array for buffer in self.buffers.values() for array in buffer.arrays()]
        self.buffers = {}
        # without a copy: the arrays become the shards of a global array
        return jax.make_array_from_single_device_arrays(self.shape, self.sharding, arrays)


def _pieces(
    ranges: Mapping[str, tuple[int, int]],
    stored: tuple[str, ...],
    row: Tensor,
) -> Iterator[dict[str, tuple[int, int]]]:
    """`ranges` in pieces of at most PIECE_BYTES of float32, split along the longest letter; none if the
    buffer holds only padding.
    """
    lengths = {letter: stop - start for letter, (start, stop) in ranges.items()}
    if any(n <= 0 for n in lengths.values()):
        return
    # not along an interleaved head width: the entries of a pair are far apart in ours
    divisible = [letter for letter in stored if not (row.interleaved and letter[0] == "A")]
    longest = max(divisible, key=lengths.__getitem__)
    start, stop = ranges[longest]
    numbers_a_step = math.prod(lengths.values()) // lengths[longest]
    step = max(1, PIECE_BYTES // (4 * numbers_a_step))
    for begin in range(start, stop, step):
        yield {**ranges, longest: (begin, min(begin + step, stop))}


class _HostBuffer:
    """A buffer that is filled on the host, and then copied to its devices."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, devices: list[jax.Device]):
        # zeros: no tensor fills the padding of the vocabulary
        self.x = np.zeros(shape, dtype)
        self.devices = devices

    def put(self, x: np.ndarray, starts: tuple[int, ...]) -> None:
        """Write a piece at the start indices `starts`, cast to the buffer's dtype."""
        cuts = tuple(slice(start, start + n) for start, n in zip(starts, x.shape, strict=True))
        self.x[cuts] = x

    def arrays(self) -> list[jax.Array]:
        """A copy of the buffer on each of its devices."""
        return [jax.device_put(self.x, device) for device in self.devices]


class _DeviceBuffer:
    """A buffer that is filled on its devices, piece by piece and in place: for what is too large for the
    host.
    """

    def __init__(self, shape: tuple[int, ...], dtype: Any, devices: list[jax.Device]):
        make = partial(jnp.zeros, shape, dtype)
        with no_mesh():
            self.buffers = [
                jax.jit(make, out_shardings=SingleDeviceSharding(device))() for device in devices
            ]

    def put(self, x: np.ndarray, starts: tuple[int, ...]) -> None:
        """Write a piece, and wait until it has arrived."""
        for i, buffer in enumerate(self.buffers):
            (device,) = buffer.devices()
            with no_mesh():
                self.buffers[i] = _write(buffer, jax.device_put(x, device), starts)
        # Without waiting the host would queue pieces faster than they are transferred, and hold them all.
        jax.block_until_ready(self.buffers)

    def arrays(self) -> list[jax.Array]:
        """The buffer on each of its devices."""
        return self.buffers


def no_mesh() -> AbstractContextManager[Any]:
    """A context without a mesh: while one is set, jax refuses to work on single devices of it."""
    empty = jax.sharding.Mesh(np.empty((), object), ())
    return jax.set_mesh(empty)


# donated, so that the buffer is updated in place and a device never holds two copies
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
