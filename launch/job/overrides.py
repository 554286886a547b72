"""Dotted overrides: `--set pretrain.optimizer.peak_lr=3e-4` on the tree of a configuration; validation
comes after, once.
"""

from collections.abc import Sequence
from typing import Any

from launch.job.problems import nearest
from launch.job.yaml import parse_yaml, to_yaml


def override(tree: dict[str, Any], settings: Sequence[str]) -> list[str]:
    """Apply `a.b=value` settings to `tree` in place, in order; returns the problems of those that could not
    be applied.

    `*.b=value` sets the field in every phase that has it. The value is YAML, so `a.b='{type: Lion, …}'`
    replaces a component. An unknown field is set all the same, and reported by the validation together with
    all other problems.
    """
    problems = []
    for setting in settings:
        dotted, equals, text = setting.partition("=")
        # not all(): `a..b` has an empty name in it.
        if not equals or not all(dotted.split(".")):
            problems.append(
                f"--set {setting!r}: must be PHASE.FIELD=VALUE, e.g. --set pretrain.steps=100"
            )
            continue
        # Python's word, which YAML takes for text: it would name a folder, say.
        if text.strip() == "None":
            remedy = f"write {dotted}=null, or {dotted}='\"None\"' for the word"
            problems.append(f"--set {dotted}=None: nothing is written null in YAML; {remedy}")
            continue
        try:
            value = parse_yaml(text, f"--set {dotted}")
            for path in _paths(tree, dotted.split(".")):
                _set(tree, path, value)
        except ValueError as error:
            problems.append(str(error))
    return problems


def _paths(tree: dict[str, Any], path: list[str]) -> list[list[str]]:
    """The path, or for one that begins with `*` that of every phase which has the field.

    Raises:
        ValueError: no phase has it.
    """
    if path[0] != "*":
        return [path]
    paths = [[phase, *path[1:]] for phase in tree if _has(tree[phase], path[1:])]
    if not paths:
        field = ".".join(path[1:])
        raise ValueError(f"*.{field}: no phase has the field {field}; name one that some phase has")
    return paths


def _has(node: Any, path: list[str]) -> bool:
    for part in path:
        if not isinstance(node, dict) or part not in node:
            return False
        node = node[part]
    return bool(path)


def _set(tree: dict[str, Any], path: list[str], value: Any) -> None:
    """Set one value; raises ValueError with a sentence when the path leads nowhere."""
    if path[0] not in tree:
        raise ValueError(
            f"{path[0]}: no such phase; nearest: {', '.join(nearest(path[0], list(tree)))}"
        )
    node: Any = tree
    # All names but the last lead to the node in which the last one is set.
    for i, part in enumerate(path[:-1]):
        node = _child(node, path[: i + 1], part)
    if isinstance(node, list):
        node[_index(node, path)] = value
    elif isinstance(node, dict):
        node[path[-1]] = value
    else:
        raise _without_fields(node, path)


def _child(node: Any, path: list[str], part: str) -> Any:
    if isinstance(node, list):
        return node[_index(node, path)]
    if not isinstance(node, dict):
        raise _without_fields(node, path)
    # A field that is null becomes a mapping, so that a field inside it can be set.
    if node.get(part) is None:
        node[part] = {}
    return node[part]


def _without_fields(node: Any, path: list[str]) -> ValueError:
    parent = ".".join(path[:-1])
    # Flow style writes any value on one line.
    value = to_yaml(node, flow=True)
    return ValueError(
        f"{'.'.join(path)}: {parent} is {value}, which has no fields; set that itself"
    )


def _index(node: list, path: list[str]) -> int:
    if not path[-1].isdecimal() or int(path[-1]) >= len(node):
        rule = (
            f"must be a number from 0 to {len(node) - 1}"
            if node
            else "cannot be set, the list is empty"
        )
        parent = ".".join(path[:-1])
        raise ValueError(f"{'.'.join(path)}: {path[-1]!r} {rule}; or set the whole list {parent}")
    return int(path[-1])
