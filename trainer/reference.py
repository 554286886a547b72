"""Row fields that a model computes once before a phase, such as the reference log-probabilities of DPO: no second model in memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from data_pipeline.files import writing
from data_pipeline.loader import PackedRows
from model.api import Model, Params
from trainer.objective import Objective
from trainer.source import Layout, passes


def add_reference(rows: PackedRows, objective: Objective, layout: Layout, model: Model, start: Callable[[], Params], folder: Path) -> None:
    """Give the rows `objective.reference_columns` under the parameters of `start()`; a resumed run finds the numbers in `folder`."""
    names, cache = objective.reference_columns, folder / f"{rows.fingerprint}.npz"
    if not names:
        return
    if not cache.exists():
        columns = {name: np.zeros((len(rows), *layout.shapes[_in_batch(name)][1:]), np.float32) for name in names}
        rows.columns.update(columns)  # a batch needs the fields that it is asked for
        compute, params = jax.jit(lambda params, batch: objective.reference({"policy": (model, params)}, batch)), start()
        for numbers, batch in passes(rows, layout):
            values = multihost_utils.process_allgather(compute(params, batch), tiled=True)
            for name, value in zip(names, values, strict=True):
                columns[name][numbers.start : numbers.stop] = value[: len(numbers)]
        if jax.process_index() == 0:
            _write(cache, columns)
        return
    with np.load(cache) as kept:
        rows.columns.update({name: kept[name] for name in names})


def _in_batch(name: str) -> str:
    stem, letters = name.rsplit("_", 1)
    return f"{stem}_B{letters}"


def _write(cache: Path, columns: dict[str, Any]) -> None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    partial = cache.with_name(f".{cache.name}")  # np.savez adds no second suffix
    with writing(cache):
        np.savez(partial, **columns)
        partial.rename(cache)
