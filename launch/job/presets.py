"""Published architectures by name: `architecture: {preset: llama2_7b}` stands for all of their sizes."""

import importlib
import pkgutil
from typing import Any

from launch.job.problems import nearest


def with_presets(tree: Any, path: str = "") -> Any:
    """`tree` with each preset replaced by its sizes; fields that stand beside it change these.

    Raises:
        ValueError: there is no such preset.
    """
    if isinstance(tree, list):
        return [with_presets(each, f"{path}.{i}") for i, each in enumerate(tree)]
    if not isinstance(tree, dict):
        return tree
    expanded = {}
    for key, value in tree.items():
        here = f"{path}.{key}" if path else key
        # Under this name alone: `remat` has a field `preset` of its own.
        is_preset = key == "architecture" and isinstance(value, dict) and "preset" in value
        expanded[key] = _sizes(value, here) if is_preset else with_presets(value, here)
    return expanded


def _sizes(fields: dict[str, Any], path: str) -> dict[str, Any]:
    name = fields["preset"]
    known = presets()
    if name not in known:
        near = ", ".join(nearest(str(name), list(known)))
        raise ValueError(f"{path}.preset={name}: no such preset; nearest: {near}")
    sizes = known[name]
    own = {"type": type(sizes).__name__, **sizes.model_dump(mode="json")}
    return own | {key: value for key, value in fields.items() if key != "preset"}


def presets() -> dict[str, Any]:
    """Name → architecture, of all PRESETS in the modules of model/architectures."""
    # Here, because most configurations name no preset, and these modules import jax.
    package = importlib.import_module("model.architectures")
    found: dict[str, Any] = {}
    for module in pkgutil.iter_modules(package.__path__, "model.architectures."):
        # A module without published sizes has none.
        found |= vars(importlib.import_module(module.name)).get("PRESETS", {})
    return found
