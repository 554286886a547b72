"""What components and fields are, read from the classes themselves: docstrings, comments, types, defaults."""

import ast
import inspect
import re
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from data_pipeline.component import FrozenMap, OneOf, components_in
from launch.job.load import PHASES
from launch.job.problems import nearest

Component = type[BaseModel]
# Rules of pydantic's own types -> how they are written
LIMITS = {"gt": "> {}", "ge": ">= {}", "lt": "< {}", "le": "<= {}"}


class Entry(NamedTuple):
    """A field of a component."""

    name: str
    type: str  # with limits and allowed values
    default: str | None  # None: it must be given
    text: str  # its comment, or its line in the docstring


def components() -> dict[str, Component]:
    """Name → class, of all components that a configuration can hold; phases first."""
    found: dict[str, Component] = {}
    # A user's own phases and components are among them: `components_in` knows of --import.
    waiting = list(components_in(*PHASES.values()).values())
    while waiting:
        component = waiting.pop(0)
        if component.__name__ in found:
            continue
        found[component.__name__] = component
        for field in component.model_fields.values():
            waiting += _named_in(field.annotation, field.metadata)
    return found


def _named_in(annotation: Any, metadata: list[Any] | tuple[Any, ...] = ()) -> list[Component]:
    """The components that a field of this type may hold."""
    places = [place for each in metadata if isinstance(each, OneOf) for place in each.places]
    named = list(components_in(*places).values()) if places else []
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        named.append(annotation)
    for part in typing.get_args(annotation):
        # Annotated types carry what `one_of` says in their own metadata.
        is_annotated = typing.get_origin(part) is typing.Annotated
        inner = part.__origin__ if is_annotated else part
        named += _named_in(inner, part.__metadata__ if is_annotated else ())
    return named


def entries(component: Component) -> list[Entry]:
    """The fields of a component, in their order."""
    texts = _texts(component)
    return [
        Entry(name, _type_of(field), _default_of(field), texts.get(name, ""))
        for name, field in component.model_fields.items()
    ]


def fields_named(name: str) -> Iterator[tuple[str, Entry]]:
    """(component, field) for `peak_lr` or `Optimizer.peak_lr`, or the end of a path as --set takes it."""
    *above, field = name.split(".")
    known = components()
    # Of `Optimizer.peak_lr` the part before is a class; of `optimizer.peak_lr` it is a field.
    of_class = above[-1] if above and above[-1] in known else None
    for title, component in known.items():
        if of_class in (None, title):
            yield from ((title, entry) for entry in entries(component) if entry.name == field)


def named(name: str) -> Component | list[tuple[str, Entry]]:
    """The component of this name, or all fields of this name with their components.

    Raises:
        ValueError: there is neither.
    """
    known = components()
    if name in known:
        return known[name]
    found = list(fields_named(name))
    if not found:
        fields = {entry.name for component in known.values() for entry in entries(component)}
        near = ", ".join(nearest(name.rpartition(".")[2], [*known, *sorted(fields)]))
        raise ValueError(f"{name}: no component and no field of one; nearest: {near}")
    return found


def _type_of(field: FieldInfo) -> str:
    return _type_text(field.annotation, field.metadata)


def _type_text(annotation: Any, metadata: Any = ()) -> str:
    """A type as a person would say it: `int > 0`, `AdamW | Muon`, `list of text`."""
    for each in metadata:
        if isinstance(each, OneOf):
            return " | ".join(sorted(components_in(*each.places)))
    limits = _limits(metadata)
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type_text(parts[0], parts[1:]) + limits
    if origin in (typing.Union, types.UnionType):
        return " | ".join(_type_text(part) for part in parts) + limits
    if origin is Literal:
        return " | ".join(str(part) for part in parts)
    if origin in (tuple, list, set, frozenset):
        items = [_type_text(part) for part in parts if part is not Ellipsis]
        return f"list of ({', '.join(items)})" if len(items) > 1 else f"list of {''.join(items)}"
    if origin in (FrozenMap, dict):
        return f"mapping of {_type_text(parts[0])} to {_type_text(parts[1])}"
    if annotation is type(None):
        return "null"
    return {"str": "text", "bool": "true | false"}.get(
        _name(annotation), _name(annotation)
    ) + limits


def _name(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def _limits(metadata: Any) -> str:
    texts = []
    for each in metadata:
        # `vars` of a slotted dataclass fails; its repr is `Gt(gt=0)`.
        for rule, value in re.findall(r"\b(gt|ge|lt|le)=([-\w.]+)", repr(each)):
            texts.append(LIMITS[rule].format(value))
    return f" {' and '.join(texts)}" if texts else ""


def _default_of(field: FieldInfo) -> str | None:
    if field.is_required():
        return None
    default = field.get_default(call_default_factory=True)
    if isinstance(default, BaseModel):
        # Its own fields are explained under its name.
        changed = default.model_dump(exclude_defaults=True, mode="json")
        return " ".join([type(default).__name__, *(f"{k}={v}" for k, v in changed.items())])
    if default is None or isinstance(default, bool):
        return {None: "null", True: "true", False: "false"}[default]
    return str(dict(default)) if isinstance(default, FrozenMap) else str(default)


def _texts(component: Component) -> dict[str, str]:
    """Field → its comment in the source, else its lines under `Attributes:` of the docstring."""
    texts: dict[str, str] = {}
    for base in reversed(component.__mro__):
        # Fields of a base class are described there.
        if isinstance(base, type) and issubclass(base, BaseModel) and base is not BaseModel:
            texts |= _attributes(inspect.getdoc(base) or "") | _comments(base)
    return texts


def _attributes(docstring: str) -> dict[str, str]:
    _, _, section = docstring.partition("Attributes:\n")
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


def _comments(component: Component) -> dict[str, str]:
    """Field → the comment behind it, or on the lines just above."""
    source = inspect.getsource(component)
    lines = source.split("\n")
    (body,) = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    texts = {}
    for node in body.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        _, behind, comment = lines[node.end_lineno - 1].partition("  # ")
        above: list[str] = []
        line = node.lineno - 2
        while not behind and lines[line].strip().startswith("#"):
            above.insert(0, lines[line].strip("# "))
            line -= 1
        if comment or above:
            texts[node.target.id] = comment or " ".join(above)
    return texts
