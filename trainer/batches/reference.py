"""Row fields that a model computes once before a phase, such as the reference log-probabilities of DPO: no
second model in memory.
"""

import io
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from data_pipeline.files import write_bytes
from data_pipeline.loader import PackedRows
from model.api import Model, Params
from trainer.batches.source import Layout, passes
from trainer.objective import Objective


def add_reference(
    rows: PackedRows,
    objective: Objective,
    layout: Layout,
    model: Model,
    start: Callable[[], Params],
    *,
    folder: Path,
    resumed: bool,
    alive: Callable[[], None] = lambda: None,
) -> None:
    """Give the rows `objective.reference_columns` under the parameters of `start()`, and keep the numbers
    in `folder` for a resumed run.

    What lies there when a phase begins anew is of another beginning (another `start_from`, say) and is
    written over. `alive` is called after every batch.
    """
    names, cache = objective.reference_columns, folder / f"{rows.fingerprint}.npz"
    if not names:
        return
    if not (resumed and cache.exists()):
        columns = {
            name: np.zeros((len(rows), *layout.shapes[_in_batch(name)][1:]), np.float32) for name in names
        }
        rows.columns.update(columns)  # a batch needs the fields that it is asked for
        compute, params = (
            jax.jit(lambda params, batch: objective.reference({"policy": (model, params)}, batch)),
            start(),
        )
        for numbers, batch in passes(rows, layout):
            values = multihost_utils.process_allgather(compute(params, batch), tiled=True)
            for name, value in zip(names, values, strict=True):
                columns[name][numbers] = value[: len(numbers)]
            alive()
        if jax.process_index() == 0:
            packed = io.BytesIO()
            np.savez(packed, **columns)
            write_bytes(cache, packed.getvalue())
        return
    with np.load(cache) as kept:
        rows.columns.update({name: kept[name] for name in names})


def _in_batch(name: str) -> str:
    stem, letters = name.rsplit("_", 1)
    return f"{stem}_B{letters}"
