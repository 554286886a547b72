"""Every published size of every family, by name."""

import pkgutil
from functools import cache
from importlib import import_module

from model import architectures
from model.architecture import Architecture


@cache
def presets() -> dict[str, Architecture]:
    """The PRESETS of all modules of model/architectures/, as one."""
    modules = [found.name for found in pkgutil.iter_modules(architectures.__path__)]
    tables = [
        vars(import_module(f"model.architectures.{name}")).get("PRESETS", {}) for name in modules
    ]
    return {name: sizes for table in tables for name, sizes in table.items()}
