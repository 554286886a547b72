"""The settings that written data depends on: kept beside it, compared before anything is added to it.

The output of a stage is found again by a digest of what it depends on: the stage's VERSION, each component's
`type:` name, VERSION and fields, and the versions of libraries. The text and the location of our source files
are left out, so that a comment or a moved file does not cause a corpus to be made again.
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from pydantic import BaseModel

# Libraries of which another release may give other bytes for the same input.
LIBRARIES = (
    "array_record",
    "daft",
    "fastwarc",
    "ftfy",
    "msgpack",
    "py3langid",
    "pyarrow",
    "resiliparse",
    "sentencepiece",
)
MAX_SHOWN = 5  # differing fields that an error names


@runtime_checkable
class Versioned(Protocol):
    """A component that makes data: a reader, a rule, a tokenizer's trainer.

    Attributes:
        VERSION: Raised by whoever changes what the same fields and the same input give.
    """

    VERSION: ClassVar[int]


@runtime_checkable
class ReadsFiles(Protocol):
    """A component whose output depends on the content of files that its fields name."""

    def fingerprint(self) -> str:
        """A hash of that content."""
        ...


def library_versions() -> dict[str, str]:
    """Name → installed version of the libraries that data passes through."""
    return {name: version(name) for name in LIBRARIES}


def digest(configuration: Any) -> str:
    """16 hex digits of a configuration, of plain data."""
    # Sorted, so that the order of fields in a class does not matter. 64 bits are enough to tell
    # the folders of a job apart.
    return hashlib.sha256(json.dumps(configuration, sort_keys=True).encode()).hexdigest()[:16]


def described(component: BaseModel, *, without: Collection[str] = ()) -> dict[str, Any]:
    """All that a component's output depends on, as plain data; fields in `without` are left out.

    Raises:
        ValueError: it has no VERSION.
    """
    if not isinstance(component, Versioned):
        raise ValueError(version_problem(component))
    return {
        "type": type(component).__name__,
        "version": component.VERSION,
        "content": component.fingerprint() if isinstance(component, ReadsFiles) else "",
        "fields": component.model_dump(mode="json", exclude=set(without)),
    }


def version_problem(component: Any) -> str:
    """What is wrong with a component that makes data and has no VERSION, in a sentence; "" if it has one."""
    if isinstance(component, Versioned):
        return ""
    return (
        f"{type(component).__name__} has no VERSION, by which what it makes is found again; write "
        "`VERSION: ClassVar[int] = 1` in the class, and raise it when its output changes"
    )


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
    # Flattened, so that an error names the field by its dotted path.
    before = flat({name: value for name, value in saved.items() if name not in without})
    after = flat({name: value for name, value in now.items() if name not in without})
    # The paths of both; a field that only one side has differs from None.
    differing = [path for path in {**before, **after} if before.get(path) != after.get(path)]

    def is_allowed(path: str) -> bool:
        # With dots, so that `chats` does not allow `chats_per_page`.
        return any(f"{path}.".startswith(f"{allowed}.") for allowed in allow_change)

    refused = [path for path in differing if not is_allowed(path)]
    if refused:
        shown = "; ".join(
            f"{path}: {before.get(path)!r:.60} there, {after.get(path)!r:.60} now"
            for path in refused[:MAX_SHOWN]
        )
        # Not all: a changed recipe differs in hundreds of fields.
        n_more = len(refused) - MAX_SHOWN
        more = f"; and {n_more} more" if n_more > 0 else ""
        allowing = f"--allow-change {folder.name}.{refused[0].split('.')[0]}"
        raise ValueError(
            f"{folder} was prepared with other settings ({shown}{more}); restore them, choose another "
            f"folder, or pass {allowing} to make again what depends on it"
        )
    return bool(differing)


def flat(tree: Any, path: str = "") -> dict[str, Any]:
    """Dotted path → leaf of nested mappings and lists."""
    if isinstance(tree, list | tuple):
        # Indices of lists are names in a path.
        tree = dict(enumerate(tree))
    if not isinstance(tree, Mapping):
        return {path: tree}
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        # No dot before a top-level name.
        leaves |= flat(value, f"{path}.{key}" if path else str(key))
    return leaves
