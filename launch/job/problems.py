"""Everything wrong with a configuration, one line each: path=value, the rule, the remedy."""

import difflib
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from launch.job.yaml import parse_yaml, to_yaml

# pydantic's error type -> rule and remedy in our words; {…} is a value of the error's context
RULES = {
    "missing": "must be given",
    "int_type": "must be a whole number; write it like 100, without point or exponent",
    "int_parsing": "must be a whole number; write it like 100, without point or exponent",
    "int_from_float": "must be a whole number; write it like 100, without point or exponent",
    "float_type": "must be a number; write it like 3e-4",
    "float_parsing": "must be a number; write it like 3e-4",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false; write one of these words",
    "bool_parsing": "must be true or false; write one of these words",
    "string_type": "must be text; put it in quotes",
    # filled in by str.format, to which double braces are literal ones
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must match {pattern}",
    "literal_error": "must be {expected}; choose one of them",
    "enum": "must be {expected}; choose one of them",
    "greater_than": "must be greater than {gt}; raise it",
    "greater_than_equal": "must be at least {ge}; raise it",
    "less_than": "must be less than {lt}; lower it",
    "less_than_equal": "must be at most {le}; lower it",
    "multiple_of": "must be a multiple of {multiple_of}; round it",
    "too_short": "must have at least {min_length} entries; add some",
    "too_long": "must have at most {max_length} entries; remove some",
    "tuple_type": "must be a list; write [a, b]",
    "list_type": "must be a list; write [a, b]",
    "dict_type": "must be a mapping; write {{key: value}}",
    "mapping_type": "must be a mapping; write {{key: value}}",
    "model_type": "must be a mapping of its fields; write {{field: value}}",
    "model_attributes_type": "must be a mapping of its fields; write {{field: value}}",
    "path_type": "must be a path; write it as text",
    "none_required": "must be null",
}


class Problems(ValueError):
    """A configuration that cannot run; `problems` holds one line each."""

    def __init__(self, where: str, problems: Sequence[str]):
        self.problems = tuple(problems)
        lines = self.problems
        if len(lines) > 1:
            lines = (f"{len(lines)} problems:", *(f"  {line}" for line in lines))
        # A single problem is a sentence; several are a list below a count.
        super().__init__(f"{where}: " + "\n".join(lines))


def alike(name: str, known: Sequence[str]) -> list[str]:
    """Up to three of `known` that look like `name`, best first."""
    # 0.5: below difflib's default of 0.6, since a wrong word is often a short one.
    return difflib.get_close_matches(name, known, 3, 0.5)


def nearest(name: str, known: Sequence[str]) -> list[str]:
    """`alike`, or all that are known (12 at most) when none is."""
    return alike(name, known) or sorted(known)[:12]


def explain_all(
    error: ValidationError, prefix: str, tree: Any, component: type[BaseModel]
) -> list[str]:
    """The lines of a pydantic error; `prefix` is the path of `tree`, which was validated as `component`.

    `tree` is None for a component built in Python, whose values are no longer known.
    """
    # By (path, type), because a union reports the same mistake once for each of its branches.
    lines: dict[tuple[str, str], str] = {}
    # The URL is that of pydantic's documentation.
    for detail in error.errors(include_url=False):
        path = detail["loc"] if tree is None else _real_path(detail["loc"], tree, detail["type"])
        dotted = ".".join(map(str, (prefix, *path)))
        lines.setdefault((dotted, detail["type"]), _line(detail, dotted, path, tree, component))
    return list(lines.values())


def _line(detail: Any, dotted: str, path: tuple, tree: Any, component: type[BaseModel]) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "missing":
        return f"{dotted}: must be given; add it to the config or use --set {dotted}=VALUE"
    if kind == "extra_forbidden":
        parent = dotted.rpartition(".")[0]
        remedy = f"{parent} has no fields; remove it"
        if near := nearest(str(path[-1]), field_names(component, tree, path[:-1])):
            remedy = f"nearest: {', '.join(f'{parent}.{name}' for name in near)}"
        return f"{dotted}={_shown(detail['input'])}: no such field; {remedy}"
    if kind == "value_error":
        text = str(context.get("error", detail["msg"]))
        # A component's own sentence may begin with the field: `steps=0 must …`.
        names_a_field = re.match(r"[a-z_]\w*(\.\w+)*=", text)
        return (
            f"{dotted}.{text}" if names_a_field else f"{dotted}={_shown(detail['input'])}: {text}"
        )
    rule = (
        RULES[kind].format(**context)
        if kind in RULES
        else detail["msg"][0].lower() + detail["msg"][1:]
    )
    if is_quoted(detail["input"], kind):
        rule = f"{rule.partition(';')[0]}; write it without quotes"
    return f"{dotted}={_shown(detail['input'])}: {rule}"


def is_quoted(value: Any, kind: str) -> bool:
    """Whether a value is text that without its quotes would be the number or truth value that is wanted."""
    wanted = {"int": (int,), "float": (int, float), "bool": (bool,)}.get(kind.partition("_")[0])
    if not isinstance(value, str) or wanted is None:
        return False
    try:
        # By the type itself: to Python true is an int.
        return type(parse_yaml(value, "")) in wanted
    except ValueError:
        return False


def _shown(value: Any) -> str:
    """A value as YAML on one line, cut to 60 characters."""
    if isinstance(value, BaseModel):
        value = {"type": type(value).__name__, **value.model_dump(mode="json")}
    is_plain = isinstance(value, dict | list | str | int | float | None)
    text = to_yaml(value, flow=True) if is_plain else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _real_path(loc: Sequence, tree: Any, kind: str) -> tuple:
    """pydantic's location without the parts that are not in the tree: branches of a union, `[key]` marks."""
    path, node = [], tree
    for i, part in enumerate(loc):
        # The name of a missing field is the last part, which is not in the tree.
        is_missing = kind == "missing" and i == len(loc) - 1
        is_key = isinstance(node, Mapping) and (part in node or is_missing)
        is_list = isinstance(node, Sequence) and not isinstance(node, str)
        is_index = is_list and isinstance(part, int) and part < len(node)
        if is_key or is_index:
            path.append(part)
            node = node[part] if not (isinstance(node, Mapping) and part not in node) else None
    return tuple(path)


def field_names(component: Any, tree: Any, path: Sequence) -> list[str]:
    """The fields of the component that stands at `path` of `tree`, which was validated as `component`."""
    annotation, node = component, tree
    for part in path:
        # An annotation may allow several components; the value's own `type:` names one.
        models = _models_at(annotation, node)
        fields = [
            model.model_fields[part].annotation for model in models if part in model.model_fields
        ]
        # An index or a key of a map is no field: go on with the type of the elements.
        annotation = fields[0] if fields else _element_of(annotation)
        node = None if node is None else node[part]
    return sorted({name for model in _models_at(annotation, node) for name in model.model_fields})


def _models_at(annotation: Any, node: Any) -> list[type[BaseModel]]:
    """The classes a mapping may be meant as: those its `type:` names, or those that the annotation names."""
    name = node.get("type") if isinstance(node, Mapping) else None
    if isinstance(name, str):
        return components_named(name)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [model for part in typing.get_args(annotation) for model in _models_at(part, node)]
    return (
        [annotation] if isinstance(annotation, type) and issubclass(annotation, BaseModel) else []
    )


def components_named(name: str) -> list[type[BaseModel]]:
    """The component classes of this name that are imported."""
    return [
        model
        for model in _subclasses(BaseModel)
        # Frozen, as components are: a library may have a model of the same name.
        if model.__name__ == name and model.model_config.get("frozen")
    ]


def _element_of(annotation: Any) -> Any:
    """The last parameter of a container that is no ellipsis: X of tuple[X, ...], V of FrozenMap[K, V]."""
    parts = [part for part in typing.get_args(annotation) if part is not Ellipsis]
    return parts[-1] if parts else None


def _subclasses(model: type) -> set[type]:
    # __subclasses__ lists only direct ones, and only those that are imported.
    return {child for direct in model.__subclasses__() for child in (direct, *_subclasses(direct))}
