"""How a component is written down: frozen pydantic models, polymorphic fields tagged `type: ClassName`,
immutable maps.
"""

import difflib
import importlib
import inspect
import json
import os
import pkgutil
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BaseModel, Field, WrapSerializer, WrapValidator
from pydantic_core import PydanticCustomError, core_schema

# numpy and jax take seeds of 32 bits alike; jax would silently drop the others
Seed = Annotated[int, Field(ge=0, lt=1 << 32)]
# A path; `~` is the home directory here too, where no shell puts it in.
PathText = Annotated[str, AfterValidator(os.path.expanduser)]
# modules named by `--import`; their components are found beside ours
imported_by_user: list[str] = []


class FrozenMap[K, V](Mapping[K, V]):
    """An immutable, hashable mapping that keeps its order; written as a plain mapping in YAML."""

    # pydantic's own mappings are mutable, and a component has to be hashable
    def __init__(self, items: Mapping[K, V] | None = None, **named: V):
        self._items = dict(items or {}, **named)

    def __getitem__(self, key: K) -> V:
        return self._items[key]

    def __iter__(self) -> Iterator[K]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        # Without the order, which does not count when mappings are compared.
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        return f"FrozenMap({self._items})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> core_schema.CoreSchema:
        """Validate as a dict of the parameters, then freeze."""
        inner = handler.generate_schema(dict[source.__args__])
        return core_schema.no_info_before_validator_function(
            # A FrozenMap is accepted too: defaults and configs in Python pass one, YAML a dict.
            lambda value: dict(value) if isinstance(value, FrozenMap) else value,
            # The values are validated as their own types first; freezing needs no further check.
            core_schema.no_info_after_validator_function(cls, inner),
            serialization=core_schema.wrap_serializer_function_ser_schema(
                lambda value, inner_serializer: inner_serializer(dict(value)), schema=inner
            ),
        )


def components_in(*places: str) -> dict[str, type[BaseModel]]:
    """Name -> component class, of every frozen model defined in the modules or packages `places` and in the
    user's own modules.
    """
    components: dict[str, type[BaseModel]] = {}
    for place in (*places, *imported_by_user):
        package = importlib.import_module(place)
        # Only packages have a __path__; a plain module has no children.
        children = [
            f"{place}.{m.name}" for m in pkgutil.iter_modules(getattr(package, "__path__", ()))
        ]
        for module in (package, *map(importlib.import_module, children)):
            for name, value in vars(module).items():
                if not name.startswith("_") and _is_component(value, module.__name__):
                    components[name] = value
    return components


def _is_component(value: Any, module: str) -> bool:
    """Whether a value is a frozen model that the module defines: one that it imports is another's."""
    if not inspect.isclass(value) or not issubclass(value, BaseModel):
        return False
    return value.__module__ == module and bool(value.model_config.get("frozen"))


class OneOf(NamedTuple):
    """The packages whose components a field may hold, for those who read a field's type."""

    places: tuple[str, ...]


def one_of(*places: str) -> Any:
    """A field type that holds any component defined under `places`, tagged `type: ClassName` when written
    down.
    """
    # Any with a validator, not a union: the classes are not known when this module is imported.
    reader = WrapValidator(lambda value, handler: _read(value, places))
    return Annotated[Any, reader, WrapSerializer(_write), OneOf(places)]


def _read(value: Any, places: tuple[str, ...]) -> BaseModel:
    # Looked up at each call, because `--import` may have added modules.
    known = components_in(*places)
    if isinstance(value, BaseModel):  # in a config that is Python
        if type(value) in known.values():
            return value
        context = {
            "name": type(value).__name__,
            "places": ", ".join(places),
            "names": ", ".join(sorted(known)),
        }
        raise PydanticCustomError(
            "component", "{name} is no component of {places}; there are {names}", context
        )
    if not isinstance(value, Mapping) or "type" not in value:
        raise PydanticCustomError(
            "component", "must be a mapping with `type: {names}`", {"names": " | ".join(known)}
        )
    # YAML may hold anything here, even a list
    name = value["type"]
    if not isinstance(name, str) or name not in known:
        # Three names that look alike; all of them where nothing does.
        near = difflib.get_close_matches(str(name), known, 3, 0.3) or sorted(known)
        raise PydanticCustomError(
            "component",
            "type={name} is unknown; nearest: {near}",
            {"name": repr(name), "near": ", ".join(near)},
        )
    fields = {key: field for key, field in value.items() if key != "type"}
    # By way of JSON a strict model takes a list for a tuple, and coerces nothing else. default=str: a value
    # that JSON does not have (a date in YAML) becomes text.
    return known[name].model_validate_json(json.dumps(fields, default=str))


def _write(value: BaseModel, handler: Any) -> dict[str, Any]:
    # What `_read` takes, so that a saved config can be read again.
    return {"type": type(value).__name__, **value.model_dump(mode="json")}


def parts_of(component: BaseModel, path: str = "") -> Iterator[tuple[str, BaseModel]]:
    """(dotted path, component) of all components inside of one, at any depth: in fields, lists and maps."""
    for field, value in component:
        # Indices of lists and keys of maps are names in a path, as in `--set`.
        inside: Mapping[Any, Any] = {"": value}
        if isinstance(value, tuple | list):
            inside = dict(enumerate(value))
        elif isinstance(value, Mapping):
            inside = value
        for key, each in inside.items():
            if isinstance(each, BaseModel):
                place = ".".join(filter(None, (path, field, str(key))))
                yield place, each
                yield from parts_of(each, place)
