"""What done.json says of the checkpoints that a finished phase left, and whether they still are those."""

import contextlib
import json
from pathlib import Path
from typing import Any

from data_pipeline.files import sha256
from trainer.checkpoints.stored import Damaged, checkpoint_path, digest_of, steps_in

DONE = "done.json"


def ending_of(phase_folder: Path) -> dict[str, Any]:
    """The fields of done.json by which others prove what they start from: the last step, and the digest of
    every checkpoint.
    """
    folder = phase_folder / "checkpoints"
    digests = {}
    for step in steps_in(folder):
        # An older one may be damaged by now; it is left out, and so refused, and the phase is done.
        with contextlib.suppress(Damaged):
            digests[str(step)] = digest_of(folder / str(step))
    return {"step": steps_in(folder)[-1], "checkpoints": digests}


def proved_checkpoint(phase_folder: Path, step: int | None = None) -> Path:
    """The folder of a step, by default the last of a finished phase and the newest of another; it is one
    that the phase ended with, if done.json says which these are.

    Raises:
        FileNotFoundError: the phase has no such checkpoint.
        ValueError: the phase is finished, and this checkpoint is gone or another one.
    """
    done = _done_of(phase_folder)
    digests = done.get("checkpoints")
    # An unfinished phase has not said yet what it ends with; one of an earlier version never did.
    if not digests:
        return checkpoint_path(phase_folder, step)
    asked = str(done["step"] if step is None else step)
    path = phase_folder / "checkpoints" / asked
    ended = f"{phase_folder} ended at step {done['step']}"
    again = f"remove {phase_folder / DONE} and run its job again, which trains on from what is left"
    if not path.is_dir():
        # A step that it never kept, asked for by name: the error lists those that there are.
        if asked not in digests:
            return checkpoint_path(phase_folder, step)
        raise ValueError(f"{ended}, and its checkpoint {path} is missing; restore it, or {again}")
    try:
        found = digest_of(path)
    except Damaged as error:
        problem = f"{ended}, and its checkpoint {path} is damaged ({error.why})"
        raise ValueError(f"{problem}; restore it, or {again}") from error
    if found != digests.get(asked):
        problem = f"{ended}, and {path} is not a checkpoint that it left"
        raise ValueError(f"{problem}; restore its own, or remove this one, then {again}")
    return path


def check_tokenizer(path: Path) -> None:
    """Compare a tokenizer with what the done.json beside it says of it; one without passes.

    Raises:
        ValueError: it is another one.
    """
    made = _done_of(path.parent).get("tokenizer")
    # A model may be imported without a tokenizer.
    if made and path.is_file() and sha256(path) != made:
        remedy = f"restore it, or remove {path.parent / DONE} and run its job again"
        raise ValueError(f"{path} is not the tokenizer that {path.parent} made; {remedy}")


def _done_of(phase_folder: Path) -> dict[str, Any]:
    """The object in done.json, {} if there is none.

    Raises:
        ValueError: it is damaged.
    """
    path = phase_folder / DONE
    if not path.is_file():
        return {}
    try:
        # An object whatever was written there: a list or a number has no items.
        return dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError):
        remedy = "remove it and run its job again, which writes it anew"
        raise ValueError(f"{path} is not what was written; {remedy}") from None
