"""The hardware that a phase computed on, recorded because only the same hardware gives the same bits."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from model.mesh import device_kind
from trainer.events import read_events

EVENT = "placed"  # name of the event in events.jsonl, at every start of a phase


def placement(mesh: Mesh) -> dict[str, Any]:
    """JSON with the mesh's axes, kind of devices, number of processes and jax's version."""
    # axes of size 1 do not change the program
    axes = {axis: size for axis, size in mesh.shape.items() if size > 1}
    return {
        "mesh": axes,
        "devices": device_kind(),
        "processes": jax.process_count(),
        "jax": jax.__version__,
    }


def note_placement(event: Callable[..., None], step: int, mesh: Mesh) -> None:
    """Record the hardware that computes the steps after `step` as an event."""
    event(EVENT, step, **placement(mesh))


def placed_at(folder: Path, step: int) -> dict[str, Any] | None:
    """The placement under which the phase in `folder` computed a step; None if it was not recorded.

    A step may have been computed more than once, before and after a restart: the last time counts.
    """
    placements = [
        event for event in read_events(folder) if event["event"] == EVENT and event["step"] < step
    ]
    return placements[-1] if placements else None


def moved(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A clause for each difference between two placements."""
    return [
        f"{name} {_shown(then.get(name))} then, {_shown(now[name])} now"
        for name in now
        if then.get(name) != now[name]
    ]


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{axis}={size}" for axis, size in value.items()) or "of 1 device"
    return str(value)
