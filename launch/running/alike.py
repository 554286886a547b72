"""What all processes of one run must have in common: configuration, options, code and libraries."""

import hashlib
import importlib.metadata
import json
import platform
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_pipeline.component import imported_by_user
from data_pipeline.settings import flat
from launch.job.load import Job, dump
from launch.process.distributed import client_of_several
from launch.process.failures import OUR_ROOMS

# libraries of which another version may compute other numbers, or come to its collectives in another order
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def check_processes_alike(job: Job, run_dir: Path, options: Mapping[str, Any]) -> None:
    """Compare this process with the others of the run, before the first phase; `options` by their names.

    Raises:
        ValueError: they differ, in every process.
    """
    if client_of_several() is None:
        return
    from trainer.cluster.agreement import (
        check_alike,  # imports jax, which a data phase alone does not need
    )

    facts = {
        **flat(dump(job.phases)),
        # The order of phases is part of the configuration, and no field.
        "phases": list(job.phases),
        "--dir": str(run_dir.resolve()),
        **{name: json.loads(json.dumps(value, default=str)) for name, value in options.items()},
        **_software(),
    }
    remedy = "start all processes with the same configuration, options and code"
    check_alike(facts, remedy=remedy)


def _software() -> dict[str, Any]:
    """Versions, a digest of the code, and those settings of jax that change what is computed."""
    import jax

    settings = ("jax_enable_x64", "jax_default_matmul_precision", "jax_default_prng_impl")
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in LIBRARIES},
        **{name: str(jax.config.values[name]) for name in settings},
        "code of Meshwright": _digest(_own_files()),
        "code of --import": _digest(_files_of_user()),
    }


def _own_files() -> Iterator[Path]:
    root = Path(__file__).parent.parent.parent
    for room in OUR_ROOMS:
        # Sorted: the order in which a folder lists its files is not the same everywhere.
        yield from sorted((root / room).rglob("*.py"))


def _files_of_user() -> Iterator[Path]:
    for module in imported_by_user:
        if file := sys.modules[module].__file__:
            yield Path(file)


def _digest(files: Iterator[Path]) -> str:
    """12 hex digits of what the files hold; a clone may lie elsewhere on every host."""
    content = hashlib.sha256()
    for path in files:
        content.update(path.read_bytes())
    return content.hexdigest()[:12]
