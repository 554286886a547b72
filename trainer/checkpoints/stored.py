"""A checkpoint on the disk: the folder of a step, what lies in it, and whether it is what was saved.

Two items hold arrays (`params`, `optimizer`) and four hold JSON. Of these `fingerprints` seals the others:
shapes, types and fingerprints of all arrays, digests of the JSON, and its own digest.
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

# what damaged files make Orbax and TensorStore raise; MemoryError and PermissionError say nothing of the
# files
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
    """A checkpoint that is not what was saved; `why` is the reason alone."""

    def __init__(self, folder: Path, why: str):
        super().__init__(f"checkpoint {folder} is damaged: {why}; use one of another step")
        self.why = why


def arrays_of(state: TrainState) -> dict[str, Any]:
    """The items that hold arrays; a key is saved as its numbers."""
    key = state.key
    if isinstance(key, jax.ShapeDtypeStruct):
        data = jax.eval_shape(jax.random.key_data, key)
        key = jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=key.sharding)
    else:
        key = jax.random.key_data(key)
    # what is frozen is made again from `start_from`: a checkpoint of an adapter is as small as the adapter
    params = {"trainable": state.trainable, "frozen": {}}
    return {"params": params, "optimizer": {"step": state.step, "opt_state": state.opt_state, "key": key}}


def state_of(arrays: Mapping[str, Any], frozen: Params) -> TrainState:
    """The inverse of `arrays_of`, with the frozen parameters, which it leaves out."""
    rest = arrays["optimizer"]
    return TrainState(
        rest["step"],
        arrays["params"]["trainable"],
        frozen,
        opt_state=rest["opt_state"],
        key=jax.random.wrap_key_data(rest["key"]),
    )


def sealed(
    arrays: Mapping[str, Any], jsons: Mapping[str, Any], frozen: Mapping[str, list[int]] | None = None
) -> dict[str, Any]:
    """What the item `fingerprints` holds; `frozen` are the fingerprints of the frozen parameters."""
    sums = fingerprints(arrays)
    leaves = {name: [kind, *sums[name]] for name, kind in _kinds(arrays).items()}
    digests = {name: _digest(value) for name, value in jsons.items()}
    seal = {"leaves": leaves, "json": digests, "frozen": dict(frozen or {})}
    return {**seal, "digest": _digest(seal)}


def check_frozen(folder: Path, frozen: Mapping[str, list[int]]) -> None:
    """Compare the fingerprints of frozen parameters, made again, with those that a checkpoint was trained on.

    Raises:
        ValueError: they differ.
    """
    wrong = differing(_seal(folder).get("frozen", {}), frozen)
    if wrong:
        others = f" and {len(wrong) - 1} more" if wrong[1:] else ""
        what = f"{wrong[0]}{others} of the frozen parameters differ from those it was trained on"
        raise ValueError(f"{folder}: {what}; bring back what start_from and seed named then")


def read_item(folder: Path, item: str) -> dict[str, Any]:
    """A JSON item of a checkpoint, which is what was saved.

    Raises:
        Damaged: it is not, or cannot be read.
    """
    value = _parsed(folder, item)
    if _digest(value) != _seal(folder)["json"].get(item):
        raise Damaged(folder, f"{item} has other contents")
    return value


def read_arrays(folder: Path, like: Mapping[str, Any]) -> dict[str, Any]:
    """Items that hold arrays, laid out as the shapes of `like` say. All processes call it together.

    Raises:
        ValueError: an array has another shape or type than `like` wants. Damaged: they are not what was
        saved, or cannot be read.
    """
    saved = {name: leaf for name, leaf in _seal(folder)["leaves"].items() if name.split(".")[0] in like}
    _check_kinds(folder, {name: kind for name, (kind, *_) in saved.items()}, _kinds(like))
    found, error = {}, None
    try:
        found = {item: _read(folder, item, tree) for item, tree in like.items()}
    except Damaged as damaged:
        error = damaged
    if all_say(error is not None).any():
        raise error or Damaged(folder, "another process cannot read its part")
    if wrong := differing({name: sums for name, (_, *sums) in saved.items()}, fingerprints(found)):
        raise Damaged(
            folder,
            f"{wrong[0]} has other values"
            + (f", and so have {len(wrong) - 1} more arrays" if wrong[1:] else ""),
        )
    return found


def json_problem(folder: Path) -> str | None:
    """What is wrong with the JSON items, in words, or None."""
    try:
        for item in _seal(folder)["json"]:
            read_item(folder, item)
    except Damaged as error:
        return error.why
    return None


def restore_params(checkpoint: Path, like: dict[str, Any]) -> dict[str, Any]:
    """`trainable` of a checkpoint (`frozen` is empty there), laid out as the shapes of `like` say.

    Raises:
        ValueError: see `read_arrays`; Damaged also where the manifest knows other sizes of files.
    """
    if why := problem(checkpoint, "size", ("params/", "fingerprints/")):
        raise Damaged(checkpoint, why)
    return read_arrays(checkpoint, {"params": like})["params"]


def read_run(checkpoint: Path) -> dict[str, Any]:
    """The Run that wrote a checkpoint, as it was serialized. Raises Damaged."""
    return read_item(checkpoint, "run")


def leaf_names(checkpoint: Path) -> list[str]:
    """The names of all arrays of a checkpoint, such as `params.trainable.embed_VD`.

    Raises:
        Damaged: the list is not what was saved.
    """
    return list(_seal(checkpoint)["leaves"])


def steps_in(folder: Path) -> list[int]:
    """Steps with a whole checkpoint, ascending; what is half written, or set aside, has another name than a
    number.
    """
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())


def checkpoint_path(phase_folder: Path, step: int | None = None) -> Path:
    """The folder of a step, by default the newest.

    Raises:
        FileNotFoundError: there is no such checkpoint.
    """
    steps = steps_in(phase_folder / "checkpoints")
    if not steps:
        raise FileNotFoundError(
            f"{phase_folder} holds no checkpoint; name the folder of a trained phase, such as runs/tiny/pretrain"
        )
    if step is not None and step not in steps:
        raise FileNotFoundError(
            f"{phase_folder} holds no checkpoint of step {step}; it has {', '.join(map(str, steps))}"
        )
    return phase_folder / "checkpoints" / str(steps[-1] if step is None else step)


def _seal(folder: Path) -> dict[str, Any]:
    seal = _parsed(folder, "fingerprints")
    if not isinstance(seal, dict) or seal.pop("digest", None) != _digest(seal):
        raise Damaged(folder, "fingerprints has other contents")
    return seal


def _parsed(folder: Path, item: str) -> Any:
    path = folder / item / "metadata"  # the name that Orbax gives it
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise Damaged(folder, f"{item}/metadata is missing") from None
    except ValueError:
        raise Damaged(folder, f"{item}/metadata is not the JSON that was written") from None


def _digest(value: Any) -> str:
    """SHA-256 of a value as it comes back from JSON."""
    return hashlib.sha256(json.dumps(json.loads(json.dumps(value)), sort_keys=True).encode()).hexdigest()


def _kinds(tree: Any) -> dict[str, str]:
    return {leaf_name(path): f"{x.dtype.name}{list(x.shape)}" for path, x in jax.tree.leaves_with_path(tree)}


def _check_kinds(folder: Path, saved: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    for name in sorted(saved.keys() | wanted.keys()):
        if saved.get(name) != wanted.get(name):
            there, here = saved.get(name, "not there"), wanted.get(name, "not known")
            raise ValueError(
                f"{folder}: {name} is {there} in the checkpoint and {here} in this run; restore the settings that it had"
            )


def _read(folder: Path, item: str, like: Any) -> Any:
    """By the handler: a Checkpointer would have processes wait for one that has failed."""
    try:
        return ocp.StandardCheckpointHandler().restore(
            (folder / item).resolve(), args=ocp.args.StandardRestore(like)
        )
    except PermissionError:
        raise
    except Exception as error:
        if (
            not isinstance(error, UNREADABLE) and type(error) is not Exception
        ):  # with several processes Orbax raises it bare
            raise
        if "RESOURCE_EXHAUSTED" in str(error):  # the memory of the device
            raise
        first_line = (str(error).splitlines() or [""])[0][:160]
        raise Damaged(folder, f"{item} cannot be read ({type(error).__name__}: {first_line})") from error
