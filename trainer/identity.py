"""Which fields of a Run may change when it resumes (free), and which make it another run (identity)."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipeline.settings import flat

# Where a run computes, how long, and how it is watched: another value does not contradict what the steps
# before a checkpoint have computed.
FREE = (
    "mesh",
    "execution",
    "micro_batches",
    "steps",
    "batch_ramp",
    "checkpoint",
    "evals",
    "evaluate_every",
    "guard.sigmas",
    "guard.patience",
    "guard.max_rollbacks",  # but not guard.window, the size of a ring in the state
    "health",
    "watch",
)
# data.schedule is free only for rows still to come: ShardSource.set_state refuses a schedule under which the
# rows before the position would be others.
FREE += ("data.batch_size", "data.schedule", "data.processes", "data.skip_bad_records")


# Null leaves out an array or a link of the optimizer's state, so null and a number are different states; from
# one number to another these are free.
WITH_STATE = (
    "optimizer.clip_norm",
    "optimizer.clip_each",
    "optimizer.ema_decay",
    "optimizer.mup_base_width",
    "optimizer.rule.b1",  # of Adafactor: its mean of gradients
)


MOST_SHOWN = 4  # differing fields of architectures that a sentence names


def is_free(path: str) -> bool:
    """Whether a checkpoint may be resumed with another value of this field.

    Of the optimizer only what its state's arrays follow from is identity: the type of its rule, and which
    sides of matrices SOAP rotates.
    """
    if path.startswith("optimizer."):
        return path not in ("optimizer.rule.type", "optimizer.rule.max_side")
    return any(path == free or path.startswith(f"{free}.") for free in FREE)


def changes(saved: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Path -> (saved value, present value) of every field in which two serialized Runs differ."""
    # Flat paths, so that a message can name the one field that differs, not its whole component.
    before = flat(saved)
    after = flat(now)
    pairs = {path: (before.get(path), after.get(path)) for path in before | after}
    return {path: (old, new) for path, (old, new) in pairs.items() if old != new}


def check_identity(
    saved: Mapping[str, Any],
    now: Mapping[str, Any],
    *,
    allow_change: Sequence[str],
    folder: Path | str,
) -> list[str]:
    """Compare two serialized Runs; returns a line for each difference that is free or allowed.

    Raises:
        ValueError: an identity field differs.
    """

    def is_allowed(path: str) -> bool:
        return any(path == allowed or path.startswith(f"{allowed}.") for allowed in allow_change)

    differing = changes(saved, now)
    other_state = [path for path in WITH_STATE if path in differing and None in differing[path]]
    # Another rule has other fields, and its type is what has changed.
    if "optimizer.rule.type" in differing:
        other_state = [path for path in other_state if not path.startswith("optimizer.rule.")]
    if other_state:
        # No --allow-change: a checkpoint without the link could not be read.
        path = other_state[0]
        old, new = differing[path]
        raise ValueError(
            f"{folder} holds checkpoints with {path}={_in_yaml(old)}, and {_in_yaml(new)} needs another "
            "optimizer state (one number for another would do); restore the value, or choose another --dir"
        )
    refused = [path for path in differing if not is_free(path) and not is_allowed(path)]
    if refused:
        diff = "; ".join(
            f"{path}: {differing[path][0]!r} saved, {differing[path][1]!r} asked for"
            for path in refused
        )
        allow = f"--allow-change {Path(folder).name}.{refused[0]}"
        raise ValueError(
            f"{folder} holds checkpoints of another run ({diff}); "
            f"choose another --dir, restore the values, or pass {allow}"
        )
    return [f"{path}: {old!r} -> {new!r}" for path, (old, new) in differing.items()]


def architecture_difference(other: Any, own: Any, where: str) -> str:
    """The fields in which the architecture of `where`, a few words, differs from a run's own."""
    dumped = [
        {"type": type(each).__name__, **each.model_dump(mode="json")} for each in (other, own)
    ]
    differing = changes(*dumped)
    shown = [
        f"{path}: {_in_yaml(old)} there, {_in_yaml(new)} here"
        for path, (old, new) in list(differing.items())[:MOST_SHOWN]
    ]
    if more := len(differing) - len(shown):
        shown.append(f"and {more} more")
    return f"differs from that of {where} ({'; '.join(shown)})"


def _in_yaml(value: Any) -> str:
    """A number, or null for None, as people write it in a config."""
    return "null" if value is None else str(value)


def run_fingerprint(run: Mapping[str, Any]) -> str:
    """16 hex digits of the fields that decide the result. A finished phase with another fingerprint does not
    count as done.
    """
    # Fewer than FREE: with other steps or batch sizes another model would have been trained.
    unimportant = (
        "mesh",
        "execution",
        "checkpoint",
        "evals",
        "evaluate_every",
        "micro_batches",
        "guard",
        "health",
        "watch",
    )
    important = {field: value for field, value in run.items() if field not in unimportant}
    # Sorted keys: reordering a class's fields must not change the fingerprint. 64 bits are plenty to tell the
    # phases of one job apart.
    return hashlib.sha256(json.dumps(important, sort_keys=True).encode()).hexdigest()[:16]
