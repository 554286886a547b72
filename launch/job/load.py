"""A job: phases by name, in order. Loaded from a launch config by name, a .py or a .yaml file; overridden;
validated once.
"""

import importlib
import importlib.util
import json
import os
import pkgutil
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from data_pipeline.component import components_in, imported_by_user
from launch.job.overrides import override
from launch.job.phase import Executable, Phase
from launch.job.presets import with_presets
from launch.job.problems import Problems, alike, components_named, explain_all, nearest
from launch.job.yaml import read_yaml

# our phases and their modules, imported only when a config names them; a user's own come by --import
PHASES = {"Prepare": "data_pipeline.prepare", "Run": "trainer.run"}


class Job(NamedTuple):
    """`name` names the default run folder; `config` is what the user called the job by: a name, or the path
    of a file.
    """

    name: str
    phases: dict[str, Phase]
    config: str


def load(config: str, settings: Sequence[str] = (), imports: Sequence[str] = ()) -> Job:
    """The job that CONFIG, --set and --import describe.

    Raises:
        Problems: with everything that is wrong; it is a ValueError.
    """
    for module in imports:
        import_components(module)
    # Not Path.expanduser, which raises where there is no home directory.
    path = Path(os.path.expanduser(config))
    if path.suffix in (".yaml", ".yml"):
        tree, name = _tree_of_file(path), path.stem
    else:
        name = path.stem if path.suffix == ".py" else config
        # Only the named config is imported: others may need packages that are not installed.
        build = _function_of_file(path) if path.suffix == ".py" else _function_named(config)
        # As plain values, so that a Python config is overridden and validated as a YAML file is.
        tree = dump(_built(build, config))

    # Problems of overrides are reported together with those that validation finds.
    wrong = override(tree, settings)
    # Again: a setting may name a preset too.
    return Job(name, validate(with_presets(tree), config, wrong), config)


def dump(phases: dict[str, Phase]) -> dict[str, Any]:
    """The job as plain values, which `validate` reads back equal."""
    return {
        name: {"type": type(phase).__name__, **phase.model_dump(mode="json")}
        for name, phase in phases.items()
    }


def validate(tree: Any, where: str, wrong: Sequence[str] = ()) -> dict[str, Phase]:
    """The phases of `tree`.

    Raises:
        Problems: with all that is wrong, `wrong` included.
    """
    if not isinstance(tree, dict) or not tree:
        raise Problems(
            where, ["must map phase names to phases; write e.g. `pretrain: {type: Run, …}`"]
        )
    problems = list(wrong)
    phases: dict[str, Phase] = {}
    for name, fields in tree.items():
        phase = _phase(name, fields)
        if isinstance(phase, list):
            problems += phase
        else:
            phases[name] = phase
    if len(phases) == len(tree):  # rules across phases need all of them
        for name, phase in phases.items():
            problems += [f"{name}.{line}" for line in phase.problems(phases)]
    if problems:
        raise Problems(where, problems)

    return phases


def _phase(name: str, fields: Any) -> Phase | list[str]:
    """The phase, or the list of what is wrong with it."""
    # The name is that of a folder, and the first in dotted paths: no slash and no dot.
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        return [f"{name}: a phase's name is its folder's; use small letters, digits and _"]
    if not isinstance(fields, dict) or not isinstance(fields.get("type"), str):
        return [f"{name}.type: must be given; choose one of {', '.join(_phase_names())}"]
    component = _component(fields["type"])
    if component is None:
        near = ", ".join(nearest(fields["type"], _phase_names()))
        own = "one of your own comes by --import PACKAGE.MODULE"
        return [f"{name}.type={fields['type']}: no such phase; nearest: {near}; {own}"]
    if not is_phase(component):
        methods = "execute, needs_devices, problems and fingerprint"
        remedy = f"give it the methods {methods} (launch/job/phase.py)"
        return [f"{name}.type={fields['type']}: is no phase; {remedy}"]
    # Without `type`, which chose the class and is no field of it.
    values = {key: value for key, value in fields.items() if key != "type"}
    try:  # as JSON, so that a list may stand for a tuple and nothing else is coerced
        return component.model_validate_json(json.dumps(values))
    except ValidationError as error:
        return explain_all(error, name, fields, component)


def _phase_names() -> list[str]:
    return sorted({*PHASES, *(name for name, found in components_in().items() if is_phase(found))})


def _component(name: str) -> type[BaseModel] | None:
    """Our phase of this name, or the component that a user's module has under it."""
    return components_in(*filter(None, [PHASES.get(name)])).get(name)


def is_phase(component: type) -> bool:
    """Whether launch knows how to carry a component out (launch/running/executors.py)."""
    return component.__name__ in PHASES or issubclass(component, Executable)


def import_components(module: str) -> None:
    """Import a user's module, also from the folder one stands in, so that its components are found by
    name.
    """
    if module.endswith(".py") or "/" in module:
        name = Path(module).stem
        raise ValueError(
            f"--import {module}: must be the name of a module, not a path; "
            f"write --import {name} and stand in its folder"
        )
    if os.getcwd() not in sys.path:
        # Ours are found now: in a linked install Python looks for them behind all of sys.path, and would take
        # a user's model.py for our room.
        for room in ("model", "data_pipeline", "inference", "trainer"):
            importlib.import_module(room)
        # Last, so that a user's file hides no module of a library.
        sys.path.append(os.getcwd())
    try:
        importlib.import_module(module)
    except Exception as error:  # whatever the user's module raises
        # error.name, because the missing module may be one that the user's own module imports.
        if isinstance(error, ModuleNotFoundError) and module.startswith(error.name or module):
            raise ValueError(
                f"--import {module}: there is no module {error.name}; "
                "add its folder to PYTHONPATH or stand in it"
            ) from None
        raise ValueError(f"--import {module}: {failure_in(error)}") from None
    if module not in imported_by_user:
        imported_by_user.append(module)


def failure_in(error: Exception, file: Path | None = None) -> str:
    """Where and why a user's Python file fails, in a sentence; in `file`, or else in the innermost one that
    is neither ours nor of the import system.
    """
    if isinstance(error, SyntaxError):
        return f"{error.filename} line {error.lineno}: not Python, {error.msg}; mend it there"
    frames = traceback.extract_tb(error.__traceback__)
    # importlib's own frames stand between ours and the user's.
    own = [
        frame
        for frame in frames
        if not frame.filename.startswith("<")
        and (file is None or Path(frame.filename) == file)
        and Path(frame.filename) not in (Path(__file__), Path(importlib.__file__))
    ]
    where = f" in {own[-1].filename} line {own[-1].lineno}" if own else ""
    reason = str(error).splitlines() or ["no message"]
    return f"fails with {type(error).__name__}{where}: {reason[0]}; mend it there"


def _tree_of_file(path: Path) -> dict[str, Any]:
    """The tree of a YAML file, with every field filled in where it already validates, so that overrides can
    reach defaults.
    """
    if not path.is_file():
        raise ValueError(_no_file(path))
    tree = with_presets(read_yaml(path))
    try:
        return dump(validate(tree, str(path)))
    except Problems:
        if isinstance(tree, dict):
            return tree  # an override may correct it; what stays wrong is reported by the last validation
        raise


def _no_file(path: Path) -> str:
    folder = path.parent if path.parent.is_dir() else Path()
    near = alike(path.name, [p.name for p in folder.iterdir()])
    remedy = (
        f"nearest: {', '.join(str(folder / name) for name in near)}" if near else "check the path"
    )
    return f"config {path}: no such file; {remedy}"


def config_names() -> list[str]:
    """The launch configs that come with Meshwright."""
    folder = Path(__file__).parent.parent / "configs"
    # iter_modules lists files without importing them.
    return sorted(module.name for module in pkgutil.iter_modules([str(folder)]))


def _function_named(name: str) -> Callable[[], dict[str, Any]]:
    known = config_names()
    if name.endswith(".json"):
        remedy = "give a .py or .yaml file, or a name; `meshwright import` reads a model's folder"
        raise ValueError(f"config {name}: a JSON file is no launch config; {remedy}")
    if name not in known:
        near = alike(name, known)
        hint = f"nearest: {', '.join(near)}" if near else f"there are: {', '.join(known)}"
        raise ValueError(
            f"config {name}: no such launch config; {hint}; or give the path of a .py or .yaml file"
        )
    # The module of a config has a function of its name; both are known by that name alone.
    return getattr(importlib.import_module(f"launch.configs.{name}"), name)


def _function_of_file(path: Path) -> Callable[[], dict[str, Any]]:
    """The function of a .py file that has the name of the file."""
    if not path.is_file():
        raise ValueError(_no_file(path))
    # By its path, because its folder need not be on sys.path, and its name may be taken there.
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ValidationError as error:
        raise _refused_in(error, str(path)) from None
    except SyntaxError as error:
        raise ValueError(failure_in(error)) from None
    except Exception as error:  # whatever the user's file raises
        raise ValueError(f"config {path} {failure_in(error)}") from None
    # A user's file: the function may be missing.
    function = getattr(module, path.stem, None)
    if not callable(function):
        raise ValueError(
            f"{path}: must define a function {path.stem}() that returns the phases by name"
        )
    return function


def _built(build: Callable[[], dict[str, Any]], where: str) -> dict[str, Any]:
    """What a config function returns. Raises Problems for components that refuse their fields."""
    try:
        phases = build()
    except ValidationError as error:
        raise _refused_in(error, where) from None
    except Exception as error:  # whatever the user's function raises
        # Our own configs and components have sentences of their own, or a fault to look into.
        if not where.endswith(".py") or isinstance(error, ValueError):
            raise
        raise ValueError(f"config {where} {failure_in(error)}") from None
    if not isinstance(phases, dict) or not all(is_phase(type(phase)) for phase in phases.values()):
        raise ValueError(
            f"{where}: its function must return a dict of phase name to phase (Prepare, Run, …)"
        )
    return phases


def _refused_in(error: ValidationError, where: str) -> Problems:
    """The problems of a component that refuses the fields a Python config gives it."""
    # The title of pydantic's error is the name of the class whose fields are wrong.
    component = next(iter(components_named(error.title)), BaseModel)
    return Problems(where, explain_all(error, error.title, None, component))
