"""On what a phase computed: only there does the same step give the same bits."""

from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from model.sharding import device_kind

EVENT = "placed"  # in events.jsonl, at every start of a phase


def placement(mesh: Mesh) -> dict[str, Any]:
    """As JSON: axes of the mesh, kind of its devices, processes, version of jax."""
    axes = {axis: size for axis, size in mesh.shape.items() if size > 1}
    return {"mesh": axes, "devices": device_kind(), "processes": jax.process_count(), "jax": jax.__version__}


def moved(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two placements, a clause each."""
    return [f"{name} {_told(then.get(name))} then, {_told(now[name])} now" for name in now if then.get(name) != now[name]]


def _told(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{axis}={size}" for axis, size in value.items()) or "of 1 device"
    return str(value)
