"""The settings that written data depends on: kept beside it, compared before anything is added to it."""

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

FORMAT = 1  # of what is written; raise it when the same settings give other bytes
TOOLS = ("array_record", "fastwarc", "msgpack", "py3langid", "resiliparse", "sentencepiece")
MAX_SHOWN = 5


def versions() -> dict[str, Any]:
    """What made the data, apart from its configuration; Python counts because its standard library is one of the corpora."""
    return {"python": platform.python_version(), "format": FORMAT, **{name: version(name) for name in TOOLS}}


def digest(configuration: Mapping[str, Any]) -> str:
    """16 hex digits of a configuration."""
    return hashlib.sha256(json.dumps([FORMAT, configuration], sort_keys=True).encode()).hexdigest()[:16]


def check(saved: Mapping[str, Any], now: Mapping[str, Any], folder: Path, *, without: tuple[str, ...] = ()) -> None:
    """Compare the settings that `folder` was made with and those asked for, fields in `without` apart.

    Raises:
        ValueError: some differ; each is named with both values.
    """
    before, after = (flat({name: value for name, value in settings.items() if name not in without}) for settings in (saved, now))
    differing = [path for path in {**before, **after} if before.get(path) != after.get(path)]
    if differing:
        shown = "; ".join(f"{path}: {before.get(path)!r:.60} there, {after.get(path)!r:.60} now" for path in differing[:MAX_SHOWN])
        more = f"; and {len(differing) - MAX_SHOWN} more" if len(differing) > MAX_SHOWN else ""
        raise ValueError(f"{folder} was prepared with other settings ({shown}{more}); restore them or choose another folder")


def flat(tree: Any, path: str = "") -> dict[str, Any]:
    """Dotted path → leaf of nested mappings and lists."""
    if isinstance(tree, list | tuple):
        tree = dict(enumerate(tree))
    if not isinstance(tree, Mapping):
        return {path: tree}
    return {k: v for key, value in tree.items() for k, v in flat(value, f"{path}.{key}" if path else str(key)).items()}
