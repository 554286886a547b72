"""A component is its configuration: frozen, strict, hashable, and equal after a round trip through YAML."""

import importlib
import inspect
import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from launch.job.load import config_names, load
from launch.job.yaml import parse_yaml, to_yaml
from tests.house.repository import ROOMS, module_of, sources

# Models of foreign files (tokenizer.json and its companions): what they check is no configuration of ours.
FOREIGN = ("data_pipeline.tokenizers.chat_files", "data_pipeline.tokenizers.tokenizer_json")


@cache
def components() -> tuple[type[BaseModel], ...]:
    """Every pydantic model that our rooms define."""
    modules = [
        importlib.import_module(module_of(path))
        for path in sources(*ROOMS)
        if not path.endswith("__main__.py")
    ]
    found = {
        value
        for module in modules
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, BaseModel)
    }
    return tuple(
        sorted(
            (
                c
                for c in found
                if c.__module__.split(".")[0] in ROOMS and c.__module__ not in FOREIGN
            ),
            key=lambda c: (c.__module__, c.__name__),
        )
    )


def inside(value: Any) -> Iterator[BaseModel]:
    """The components that a value holds, itself included."""
    if isinstance(value, BaseModel):
        yield value
        value = {name: getattr(value, name) for name in type(value).model_fields}
    if isinstance(value, str | bytes) or not hasattr(value, "__iter__"):
        return
    for part in value.values() if hasattr(value, "values") else value:
        yield from inside(part)


@cache
def examples() -> dict[type[BaseModel], BaseModel]:
    """One value of each class: from the launch configs, else with its defaults where it has them all."""
    found = {}
    for config in config_names():
        for phase in load(config).phases.values():
            found.update({type(part): part for part in inside(phase)})
    for component in components():
        # an abstract class holds fields that others share, and has no value of its own
        if component not in found and not inspect.isabstract(component):
            try:
                found[component] = component()
            except ValidationError:
                continue  # has fields that must be given, and no launch config gives them
    return found


@pytest.mark.parametrize("component", components(), ids=lambda c: c.__name__)
def test_a_component_is_frozen_and_strict(component):
    config = component.model_config
    assert (config.get("frozen"), config.get("extra"), config.get("strict")) == (
        True,
        "forbid",
        True,
    )
    assert component.__doc__ and component.__doc__.strip()


def test_component_names_are_unique_in_their_folder():
    names = [
        (component.__module__.rpartition(".")[0], component.__name__) for component in components()
    ]
    assert len(names) == len(set(names))


def test_a_component_is_hashable_and_equal_after_a_round_trip_through_yaml():
    assert examples()
    for component, value in examples().items():
        again = component.model_validate_json(
            json.dumps(parse_yaml(to_yaml(value.model_dump(mode="json")), "test"))
        )
        assert again == value and hash(again) == hash(value), component


def test_a_component_refuses_unknown_fields_and_coercion():
    for component, value in examples().items():
        with pytest.raises(ValidationError):
            component.model_validate_json(
                json.dumps({**value.model_dump(mode="json"), "no_such_field": 1})
            )
