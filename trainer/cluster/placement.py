"""On what a phase computed: only there does the same step give the same bits."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from model.sharding import device_kind
from trainer.events import read_events

EVENT = "placed"  # in events.jsonl, at every start of a phase


def placement(mesh: Mesh) -> dict[str, Any]:
    """As JSON: axes of the mesh, kind of its devices, processes, version of jax."""
    axes = {axis: size for axis, size in mesh.shape.items() if size > 1}
    return {"mesh": axes, "devices": device_kind(), "processes": jax.process_count(), "jax": jax.__version__}


def note_placement(event: Callable[..., None], step: int, mesh: Mesh) -> None:
    """Write down on what the steps behind `step` are made."""
    event(EVENT, step, **placement(mesh))


def placed_at(folder: Path, step: int) -> dict[str, Any] | None:
    """That of the process that made a step, as the phase's events say: the last one that began before it.
    None = it was not noted.
    """
    began = [event for event in read_events(folder) if event["event"] == EVENT and event["step"] < step]
    return began[-1] if began else None


def moved(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two placements, a clause each."""
    return [
        f"{name} {_told(then.get(name))} then, {_told(now[name])} now"
        for name in now
        if then.get(name) != now[name]
    ]


def _told(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{axis}={size}" for axis, size in value.items()) or "of 1 device"
    return str(value)
