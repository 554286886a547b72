"""A checkpoint on the disk: the folder of a step, what is in it, and whether it is what was saved.

Two items hold arrays (`params`, `optimizer`) and four hold JSON. One of the JSON items, `fingerprints`, seals
all the others: it has shapes, dtypes and fingerprints of all arrays, digests of the JSON, and its own digest.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from model.api import Params, leaf_name
from trainer.checkpoints.manifest import problem
from trainer.cluster.coordination import all_say
from trainer.fingerprints import differing, fingerprints
from trainer.state import TrainState

# What damaged files make Orbax and TensorStore raise. MemoryError and PermissionError say nothing about the
# files: the former is not listed, the latter, an OSError, is raised on in `_read`.
UNREADABLE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,
    AssertionError,
    NotImplementedError,
)


class Damaged(ValueError):
    """A checkpoint is not what was saved; `why` is the reason alone, for an event."""

    def __init__(self, folder: Path, why: str):
        super().__init__(f"checkpoint {folder} is damaged: {why}; use one of another step")
        self.why = why


def arrays_of(state: TrainState) -> dict[str, Any]:
    """The items that hold arrays; the key is saved as its numbers, since Orbax has no type for keys."""
    key = state.key
    if isinstance(key, jax.ShapeDtypeStruct):
        # a state of shapes, as used to restore into
        data = jax.eval_shape(jax.random.key_data, key)
        key = jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=key.sharding)
    else:
        key = jax.random.key_data(key)
    # Frozen parameters are computed again from `start_from`, so a checkpoint of an adapter is small.
    params = {"trainable": state.trainable, "frozen": {}}
    rest = {"step": state.step, "opt_state": state.opt_state, "key": key}
    return {"params": params, "optimizer": rest}


def state_of(arrays: Mapping[str, Any], frozen: Params) -> TrainState:
    """The inverse of `arrays_of`, given the frozen parameters, which that leaves out."""
    rest = arrays["optimizer"]
    return TrainState(
        rest["step"],
        arrays["params"]["trainable"],
        frozen,
        opt_state=rest["opt_state"],
        key=jax.random.wrap_key_data(rest["key"]),
    )


def sealed(
    arrays: Mapping[str, Any],
    jsons: Mapping[str, Any],
    frozen: Mapping[str, list[int]] | None = None,
) -> dict[str, Any]:
    """The item `fingerprints`: type, shape, sums of every array; digests of the JSON; its own digest.

    `frozen` are the fingerprints of the frozen parameters.
    """
    sums = fingerprints(arrays)
    leaves = {name: [type_of, *sums[name]] for name, type_of in _types(arrays).items()}
    digests = {name: _digest(value) for name, value in jsons.items()}
    seal = {"leaves": leaves, "json": digests, "frozen": dict(frozen or {})}
    # its own digest, so that damage to the seal shows too
    return {**seal, "digest": _digest(seal)}


def read_item(folder: Path, item: str) -> dict[str, Any]:
    """A JSON item of a checkpoint, compared with its digest.

    Raises:
        Damaged: it is not what was saved, or cannot be read.
    """
    value = _parsed(folder, item)
    if _digest(value) != _seal(folder)["json"].get(item):
        raise Damaged(folder, f"{item} has other contents")
    return value


def read_arrays(folder: Path, like: Mapping[str, Any]) -> dict[str, Any]:
    """Read the items of `like`, laid out as its shapes say; all processes must call it together.

    Raises:
        ValueError: an array has another shape or dtype than in `like`.
        Damaged: the arrays are not what was saved, or cannot be read.
    """
    leaves = _seal(folder)["leaves"]
    saved = {name: leaf for name, leaf in leaves.items() if name.split(".")[0] in like}
    _check_types(folder, {name: type_of for name, (type_of, *_) in saved.items()}, _types(like))
    arrays, error = {}, None
    try:
        arrays = {item: _read(folder, item, tree) for item, tree in like.items()}
    except Damaged as damaged:
        error = damaged
    # Agree first: if one process raised alone, the others would wait for it in the collectives that follow.
    if all_say(error is not None).any():
        raise error or Damaged(folder, "another process cannot read its part")
    wrong = differing({name: sums for name, (_, *sums) in saved.items()}, fingerprints(arrays))
    if wrong:
        others = f", and so have {len(wrong) - 1} more arrays" if wrong[1:] else ""
        raise Damaged(folder, f"{wrong[0]} has other values{others}")
    return arrays


def check_frozen(folder: Path, frozen: Mapping[str, list[int]]) -> None:
    """Compare fingerprints of recomputed frozen parameters with those that a checkpoint was trained on.

    Raises:
        ValueError: they differ.
    """
    wrong = differing(_seal(folder).get("frozen", {}), frozen)
    if wrong:
        others = f" and {len(wrong) - 1} more" if wrong[1:] else ""
        what = f"{wrong[0]}{others} of the frozen parameters differ from those it was trained on"
        raise ValueError(f"{folder}: {what}; bring back what start_from and seed named then")


def json_problem(folder: Path) -> str | None:
    """What is wrong with the JSON items, in words, or None."""
    try:
        for item in _seal(folder)["json"]:
            read_item(folder, item)
    except Damaged as error:
        return error.why
    return None


def restore_params(checkpoint: Path, like: dict[str, Any]) -> dict[str, Any]:
    """The `params` item of a checkpoint (its `frozen` is empty), laid out as the shapes of `like` say.

    Raises:
        ValueError: see `read_arrays`.
        Damaged: see `read_arrays`, or a file's size differs from the manifest's.
    """
    # Sizes alone: fingerprints of the arrays are compared anyway, so hashing the files would read them twice.
    if why := problem(checkpoint, "size", ("params/", "fingerprints/")):
        raise Damaged(checkpoint, why)
    return read_arrays(checkpoint, {"params": like})["params"]


def read_run(checkpoint: Path) -> dict[str, Any]:
    """The Run that wrote a checkpoint, as it was serialized. Raises Damaged."""
    return read_item(checkpoint, "run")


def digest_of(checkpoint: Path) -> str:
    """The digest of all that a checkpoint holds; no two saves have the same. Raises Damaged."""
    return _digest(_seal(checkpoint))


def leaf_names(checkpoint: Path) -> list[str]:
    """The names of all arrays of a checkpoint, such as `params.trainable.embed_VD`.

    Raises:
        Damaged: the list is not what was saved.
    """
    return list(_seal(checkpoint)["leaves"])


def steps_in(folder: Path) -> list[int]:
    """Steps with a complete checkpoint, ascending."""
    # Orbax writes under a temporary name and renames at the end; damaged ones are renamed too. Only complete
    # checkpoints have a plain number as name.
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())


def checkpoint_path(phase_folder: Path, step: int | None = None) -> Path:
    """The folder of a step, by default the newest.

    Raises:
        FileNotFoundError: there is no such checkpoint.
    """
    steps = steps_in(phase_folder / "checkpoints")
    if not steps:
        remedy = "name the folder of a trained phase, such as runs/tiny/pretrain"
        raise FileNotFoundError(f"{phase_folder} holds no checkpoint; {remedy}")
    if step is not None and step not in steps:
        there = ", ".join(map(str, steps))
        raise FileNotFoundError(
            f"{phase_folder} holds no checkpoint of step {step}; it has {there}"
        )
    return phase_folder / "checkpoints" / str(steps[-1] if step is None else step)


def _seal(folder: Path) -> dict[str, Any]:
    seal = _parsed(folder, "fingerprints")
    if not isinstance(seal, dict) or seal.pop("digest", None) != _digest(seal):
        raise Damaged(folder, "fingerprints has other contents")
    # The name of a folder is no proof: it may have been renamed, or copied over another.
    step = _step_of(seal)
    if folder.name.isdigit() and step != int(folder.name):
        raise Damaged(folder, f"it holds step {step}")
    return seal


def _step_of(seal: Mapping[str, Any]) -> int:
    """The step whose state a seal is of."""
    # The first sum of a single number is the number. Imported parameters have none: they are checkpoint 0.
    _, step, *_ = seal["leaves"].get("optimizer.step", ("", 0))
    return step


def _parsed(folder: Path, item: str) -> Any:
    path = folder / item / "metadata"  # Orbax's name for the file of a JSON item
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise Damaged(folder, f"{item}/metadata is missing") from None
    except ValueError:
        raise Damaged(folder, f"{item}/metadata is not the JSON that was written") from None


def _digest(value: Any) -> str:
    """SHA-256 of a value as read back from JSON, where tuples are lists and keys are strings."""
    # sorted keys: the digest must not depend on the order of a dict
    as_read = json.loads(json.dumps(value))
    return hashlib.sha256(json.dumps(as_read, sort_keys=True).encode()).hexdigest()


def _types(tree: Any) -> dict[str, str]:
    """Name of every leaf -> its type and shape, `float32[16, 6]`."""
    leaves = jax.tree.leaves_with_path(tree)
    return {leaf_name(path): f"{x.dtype.name}{list(x.shape)}" for path, x in leaves}


def _check_types(folder: Path, saved: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    # Checked before reading: Orbax's own error would name neither the array nor what this run expects.
    for name in sorted(saved.keys() | wanted.keys()):
        if saved.get(name) != wanted.get(name):
            there = saved.get(name, "not there")
            here = wanted.get(name, "not known")
            raise ValueError(
                f"{folder}: {name} is {there} in the checkpoint and {here} in this run; restore the settings "
                "that it had"
            )


def _read(folder: Path, item: str, like: Any) -> Any:
    """Restore an item by Orbax's handler; its Checkpointer would make processes wait for one that failed."""
    path = (folder / item).resolve()
    try:
        return ocp.StandardCheckpointHandler().restore(path, args=ocp.args.StandardRestore(like))
    except PermissionError:
        raise
    except Exception as error:
        # with several processes Orbax raises plain Exceptions
        is_unreadable = isinstance(error, UNREADABLE) or type(error) is Exception
        out_of_memory = "RESOURCE_EXHAUSTED" in str(error)  # of the device
        if out_of_memory or not is_unreadable:
            raise
        first_line = (str(error).splitlines() or [""])[0][:160]
        raise Damaged(
            folder, f"{item} cannot be read ({type(error).__name__}: {first_line})"
        ) from error
