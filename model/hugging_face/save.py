"""Save our parameters as a Hugging Face folder, tensor by tensor, so that the host holds one at a time."""

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from model.api import Params, leaf_name
from model.architecture import Architecture
from model.hugging_face.checkpoint import INDEX
from model.hugging_face.config import dtype_fields
from model.hugging_face.load import Place, no_mesh, sizes_of
from model.hugging_face.tensor import own_letters, places, put, their_shape

# Their tensors that transformers keeps in float32 in every model: DeepSeek's router biases differ by less
# than bfloat16 can tell apart, so that rounding them would choose other experts.
KEPT_FLOAT32 = ("e_score_correction_bias",)
DTYPE_NAMES = {"float32": "F32", "bfloat16": "BF16"}  # in a safetensors header
# their name → (its shape, the rows of ours that are in it)
Plan = dict[str, tuple[tuple[int, ...], list[Place]]]


def save(
    architecture: Architecture,
    params: Params,
    folder: Path,
    *,
    dtype: str,
    max_shard_bytes: int,
    files: Mapping[str, bytes],
    token_ids: Mapping[str, Any] | None = None,
) -> None:
    """Write config.json with `token_ids`, safetensors files of at most `max_shard_bytes` (a larger tensor
    gets its own), and `files` (those of a tokenizer).

    The folder appears once everything is written.

    Raises:
        ValueError: the folder exists, or other processes hold some of the parameters.
    """
    if folder.exists():
        raise ValueError(f"{folder} exists already; delete it or choose another folder")
    flat = {leaf_name(path): x for path, x in jax.tree.leaves_with_path(params)}
    if not all(x.is_fully_addressable for x in flat.values()):
        raise ValueError(
            "the parameters lie on several processes; "
            "export from a single process, which reads the checkpoint by itself"
        )
    # first, since it raises if no model of transformers computes the same
    config = {**architecture.to_hugging_face(), **dtype_fields(dtype), **(token_ids or {})}
    # beside the folder, so on the same file system, where a rename is atomic
    unfinished = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        (unfinished / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        if token_ids:
            # transformers' `generate` reads them here, and many servers in config.json
            text = json.dumps(dict(token_ids), indent=2) + "\n"
            (unfinished / "generation_config.json").write_text(text)
        for name, data in files.items():
            (unfinished / name).write_bytes(data)
        _write_tensors(unfinished, architecture, flat, dtype=dtype, max_shard_bytes=max_shard_bytes)
        unfinished.rename(folder)  # atomic: no reader sees an incomplete checkpoint
    finally:  # deletes it after an error; after the rename it no longer exists
        shutil.rmtree(unfinished, ignore_errors=True)


def export_plan(
    architecture: Architecture,
    shapes: Mapping[str, tuple[int, ...]],
) -> Plan:
    """Their tensors in the order of the architecture's table, layer by layer."""
    plan: Plan = {}
    for row in architecture.tensors():
        sizes = sizes_of(row, shapes[row.ours], architecture)
        for index, name in places(row, sizes):
            # a fused tensor has several rows, which all give the same shape
            _, row_places = plan.setdefault(name, (their_shape(row, sizes), []))
            row_places.append(Place(row, index))
    return plan


def _write_tensors(
    folder: Path,
    architecture: Architecture,
    flat: Mapping[str, jax.Array],
    *,
    dtype: str,
    max_shard_bytes: int,
) -> None:
    shapes = {name: x.shape for name, x in flat.items()}
    plan = export_plan(architecture, shapes)
    dtypes = {name: stored_dtype(name, dtype) for name in plan}
    n_bytes = {
        name: math.prod(shape) * jnp.dtype(dtypes[name]).itemsize
        for name, (shape, _) in plan.items()
    }
    shards = list(_in_shards(n_bytes, max_shard_bytes))
    file_of: dict[str, str] = {}
    for i, shard in enumerate(shards, 1):
        file_name = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        if len(shards) == 1:  # the standard name of a single file, which needs no index
            file_name = "model.safetensors"
        file_of |= dict.fromkeys(shard, file_name)
        with (folder / file_name).open("wb") as file:
            shard_shapes = {name: plan[name][0] for name in shard}
            file.write(_header(shard_shapes, n_bytes, dtypes))
            for name in shard:
                shape, row_places = plan[name]
                tensor = _tensor(shape, row_places, architecture, flat, dtypes[name])
                # as bytes: numpy's buffers do not support bfloat16
                file.write(tensor.reshape(-1).view(np.uint8).data)
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(n_bytes.values())}, "weight_map": file_of}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def stored_dtype(name: str, dtype: str) -> str:
    """The dtype in which one of their tensors is written, where `dtype` is that of most."""
    return "float32" if name.endswith(KEPT_FLOAT32) else dtype


def rounded(architecture: Architecture, params: Params, *, dtype: str) -> Params:
    """The parameters with the numbers that `save` writes of them, in their own dtypes."""
    kept = {row.ours for row in architecture.tensors() if row.theirs.endswith(KEPT_FLOAT32)}

    def as_stored(path: Any, x: jax.Array) -> jax.Array:
        return x if leaf_name(path) in kept else x.astype(dtype).astype(x.dtype)

    return jax.tree.map_with_path(as_stored, params)


def _in_shards(
    n_bytes: Mapping[str, int],
    max_shard_bytes: int,
) -> Iterator[list[str]]:
    """The names in order, divided into shards of at most `max_shard_bytes`."""
    shard: list[str] = []
    shard_bytes = 0
    for name, n in n_bytes.items():
        # `shard and`: a tensor over the limit gets a shard of its own, without an empty one before it
        if shard and shard_bytes + n > max_shard_bytes:
            yield shard
            shard, shard_bytes = [], 0
        shard.append(name)
        shard_bytes += n
    yield shard


def _header(
    shapes: Mapping[str, tuple[int, ...]],
    n_bytes: Mapping[str, int],
    dtypes: Mapping[str, str],
) -> bytes:
    """The header of a safetensors file: its length in 8 bytes, then JSON, padded with spaces to a multiple of
    8. The tensors follow it, little-endian and row-major.

    It is written here because safetensors' own writer needs all tensors of a file in memory, twice.
    """
    # transformers requires "format" in the metadata
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name, shape in shapes.items():
        end = begin + n_bytes[name]
        header[name] = {
            "dtype": DTYPE_NAMES[dtypes[name]],
            "shape": list(shape),
            "data_offsets": [begin, end],
        }
        begin = end
    data = json.dumps(header, separators=(",", ":")).encode()
    # so that tensors start at a multiple of 8, where memory-mapped data of any dtype is aligned
    data += b" " * (-len(data) % 8)
    return len(data).to_bytes(8, "little") + data


def _tensor(
    shape: tuple[int, ...],
    row_places: list[Place],
    architecture: Architecture,
    flat: Mapping[str, jax.Array],
    dtype: str,
) -> np.ndarray:
    """One of their tensors, assembled from the parameters of ours that are in it."""
    theirs = np.zeros(shape, jnp.dtype(dtype))
    for row, index in row_places:
        sizes = sizes_of(row, flat[row.ours].shape, architecture)
        stored = own_letters(row)[len(index) :]
        without_padding = tuple(slice(0, sizes[letter]) for letter in stored)  # of the vocabulary
        put(theirs, row, sizes, on_host(flat[row.ours], index)[without_padding])
    return theirs


def on_host(x: jax.Array, index: tuple[int, ...]) -> np.ndarray:
    """x[index] as a host array, copied from the devices that hold it; nothing else is copied."""
    out = np.empty(x.shape[len(index) :], x.dtype)
    for shard in x.addressable_shards:
        starts = [cut.start or 0 for cut in shard.index]
        # strict=False: `index` has the first dimensions alone
        offsets = [i - start for i, start in zip(index, starts, strict=False)]
        is_held = all(0 <= i < n for i, n in zip(offsets, shard.data.shape, strict=False))
        # replica 0 alone is read: the others hold the same numbers
        if shard.replica_id != 0 or not is_held:
            continue
        with no_mesh():
            # CPU memory is read in place; on an accelerator the slice is made there, and only it is copied
            on_cpu = shard.device.platform == "cpu"
            data = np.asarray(shard.data) if on_cpu else shard.data
            out[shard.index[len(index) :]] = data[tuple(offsets)]
    return out
