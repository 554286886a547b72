"""Our parameters → a Hugging Face folder, tensor by tensor, so that the host never holds more than one of
them.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from model.api import Params, leaf_name
from model.hugging_face.checkpoint import INDEX
from model.hugging_face.config import dtype_fields
from model.hugging_face.load import Place, no_mesh, sizes_of
from model.hugging_face.tensor import own_letters, places, put, their_shape

NAMES = {"float32": "F32", "bfloat16": "BF16"}  # of dtypes in a safetensors header
Plan = dict[str, tuple[tuple[int, ...], list[Place]]]  # their name → shape, and what of ours is in it


def save(
    architecture: Any,
    params: Params,
    folder: Path,
    *,
    dtype: str,
    max_shard_bytes: int,
    files: Mapping[str, bytes],
) -> None:
    """Write config.json, safetensors of at most `max_shard_bytes` (a larger tensor has one of its own), and
    `files` (a tokenizer's).

    The folder appears when all of it is written.

    Raises:
        ValueError: the folder is there already, or the parameters lie on other processes too.
    """
    if folder.exists():
        raise ValueError(f"{folder} exists already; delete it or choose another folder")
    flat = {leaf_name(path): x for path, x in jax.tree.leaves_with_path(params)}
    if not all(x.is_fully_addressable for x in flat.values()):
        raise ValueError(
            "the parameters lie on several processes; export from a single process, which reads the checkpoint by itself"
        )
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        config = {**architecture.to_hugging_face(), **dtype_fields(dtype)}
        (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        for name, data in files.items():
            (partial / name).write_bytes(data)
        _write_tensors(partial, architecture, flat, dtype=dtype, max_shard_bytes=max_shard_bytes)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def export_plan(architecture: Any, shapes: Mapping[str, tuple[int, ...]]) -> Plan:
    """Their tensors in the order of the table, layer by layer."""
    plan: Plan = {}
    for row in architecture.tensors():
        sizes = sizes_of(row, shapes[row.ours], architecture)
        for at, name in places(row, sizes):
            plan.setdefault(name, (their_shape(row, sizes), []))[1].append(Place(row, at))
    return plan


def _write_tensors(
    folder: Path, architecture: Any, flat: Mapping[str, jax.Array], *, dtype: str, max_shard_bytes: int
) -> None:
    plan = export_plan(architecture, {name: x.shape for name, x in flat.items()})
    n_bytes = {name: int(np.prod(shape)) * jnp.dtype(dtype).itemsize for name, (shape, _) in plan.items()}
    shards = list(_in_shards(n_bytes, max_shard_bytes))
    names = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    names = names if len(names) > 1 else ["model.safetensors"]
    for file_name, shard in zip(names, shards, strict=True):
        with (folder / file_name).open("wb") as file:
            file.write(_header({name: plan[name][0] for name in shard}, n_bytes, dtype))
            for name in shard:
                file.write(_tensor(*plan[name], architecture, flat, dtype).reshape(-1).view(np.uint8).data)
    if len(shards) > 1:
        weight_map = {
            name: file_name for file_name, shard in zip(names, shards, strict=True) for name in shard
        }
        index = {"metadata": {"total_size": sum(n_bytes.values())}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _in_shards(n_bytes: Mapping[str, int], max_shard_bytes: int) -> Iterator[list[str]]:
    shard: list[str] = []
    for name, n in n_bytes.items():
        if shard and sum(map(n_bytes.__getitem__, shard)) + n > max_shard_bytes:
            yield shard
            shard = []
        shard.append(name)
    yield shard


def _header(shapes: Mapping[str, tuple[int, ...]], n_bytes: Mapping[str, int], dtype: str) -> bytes:
    """The format: 8 bytes of length, JSON padded with spaces to a multiple of 8, then the tensors,
    little-endian, row by row.

    safetensors' own writer wants all tensors of a file in memory, twice.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        header[name] = {
            "dtype": NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [end, end + n_bytes[name]],
        }
        end += n_bytes[name]
    data = json.dumps(header, separators=(",", ":")).encode()
    data += b" " * (-len(data) % 8)
    return len(data).to_bytes(8, "little") + data


def _tensor(
    shape: tuple[int, ...], parts: list[Place], architecture: Any, flat: Mapping[str, jax.Array], dtype: str
) -> np.ndarray:
    theirs = np.zeros(shape, jnp.dtype(dtype))
    for row, at in parts:
        sizes = sizes_of(row, flat[row.ours].shape, architecture)
        kept = tuple(
            slice(0, sizes[letter]) for letter in own_letters(row)[len(at) :]
        )  # without the padding of the vocabulary
        put(theirs, row, sizes, on_host(flat[row.ours], at)[kept])
    return theirs


def on_host(x: jax.Array, at: tuple[int, ...]) -> np.ndarray:
    """x[at], from the devices that hold it; the rest stays where it is."""
    out = np.empty(x.shape[len(at) :], x.dtype)
    for shard in x.addressable_shards:
        cuts = shard.index
        starts = [cut.start or 0 for cut in cuts]
        held = all(start <= i < start + n for i, start, n in zip(at, starts, shard.data.shape, strict=False))
        if shard.replica_id == 0 and held:
            with no_mesh():
                data = (
                    np.asarray(shard.data) if shard.device.platform == "cpu" else shard.data
                )  # memory of its own needs no program
                out[cuts[len(at) :]] = data[tuple(i - start for i, start in zip(at, starts, strict=False))]
    return out
