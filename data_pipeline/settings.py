"""The settings that written data depends on: kept beside it, compared before anything is added to it."""

import hashlib
import json
import platform
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel

FORMAT = 2  # of what is written; raise it when the same settings give other bytes
TOOLS = (
    "array_record",
    "daft",
    "fastwarc",
    "msgpack",
    "py3langid",
    "pyarrow",
    "resiliparse",
    "sentencepiece",
)
MAX_SHOWN = 5


def versions() -> dict[str, Any]:
    """What made the data, apart from its configuration; Python counts because its standard library is one
    of the corpora.
    """
    return {"python": platform.python_version(), "format": FORMAT, **{name: version(name) for name in TOOLS}}


def digest(configuration: Any) -> str:
    """16 hex digits of a configuration, of plain data."""
    return hashlib.sha256(json.dumps([FORMAT, configuration], sort_keys=True).encode()).hexdigest()[:16]


@cache
def code(folder: str) -> str:
    """16 hex digits of the source code in a folder of this room: what it computes may change with it."""
    files = sorted((Path(__file__).parent / folder).rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def described(component: BaseModel, *, without: Collection[str] = ()) -> dict[str, Any]:
    """A component as plain data, some fields left out; one that depends on the content of files says by
    `fingerprint()` on which.
    """
    fields = component.model_dump(mode="json", exclude=set(without))
    content = getattr(component, "fingerprint", str)()
    return {"type": f"{type(component).__module__}.{type(component).__name__}", "content": content, **fields}


def changed(
    saved: Mapping[str, Any],
    now: Mapping[str, Any],
    folder: Path,
    *,
    without: Collection[str] = (),
    allow_change: Sequence[str] = (),
) -> bool:
    """Whether the settings that `folder` was made with differ from those asked for, fields in `without`
    apart.

    Raises:
        ValueError: some differ that `allow_change` does not name; each is named with both values.
    """
    before, after = (
        flat({name: value for name, value in settings.items() if name not in without})
        for settings in (saved, now)
    )
    differing = [path for path in {**before, **after} if before.get(path) != after.get(path)]
    refused = [
        path
        for path in differing
        if not any(f"{path}.".startswith(f"{allowed}.") for allowed in allow_change)
    ]
    if refused:
        shown = "; ".join(
            f"{path}: {before.get(path)!r:.60} there, {after.get(path)!r:.60} now"
            for path in refused[:MAX_SHOWN]
        )
        more = f"; and {len(refused) - MAX_SHOWN} more" if len(refused) > MAX_SHOWN else ""
        allowing = f"--allow-change {folder.name}.{refused[0].split('.')[0]}"
        raise ValueError(
            f"{folder} was prepared with other settings ({shown}{more}); restore them, choose another folder, or pass {allowing} "
            "to make again what depends on it"
        )
    return bool(differing)


def flat(tree: Any, path: str = "") -> dict[str, Any]:
    """Dotted path → leaf of nested mappings and lists."""
    if isinstance(tree, list | tuple):
        tree = dict(enumerate(tree))
    if not isinstance(tree, Mapping):
        return {path: tree}
    return {
        k: v
        for key, value in tree.items()
        for k, v in flat(value, f"{path}.{key}" if path else str(key)).items()
    }
