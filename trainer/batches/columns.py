"""Columns: fields of a batch that a model computes once before a phase, such as DPO's reference
log-probabilities. They spare a second model in memory.
"""

import io
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from data_pipeline.files import write_bytes
from data_pipeline.rows.packed import PackedRows
from trainer.batches.layout import Layout
from trainer.batches.shards import passes
from trainer.cluster.coordination import is_first
from trainer.objective import Objective, Policies


def add_columns(
    rows: PackedRows,
    objective: Objective,
    layout: Layout,
    policies: Callable[[], Policies],
    *,
    folder: Path,
    resumed: bool,
    alive: Callable[[], None] = lambda: None,
) -> None:
    """Add to the rows the columns that `objective.columns` computes under `policies()`, and cache them in
    `folder` for a resumed run. `layout` is that of the data without the columns.

    A phase that starts anew ignores and overwrites the cache: it may be of another model (another
    `start_from`, say). `alive` is called after every batch.
    """
    if objective.columns is None:
        return
    # Named by the rows' content: other data under the same name has other columns.
    cache = folder / f"{rows.fingerprint}.npz"
    if resumed and cache.exists():
        with np.load(cache) as saved:
            rows.columns.update({name: saved[name] for name in saved.files})
        return
    models = policies()
    compute = jax.jit(
        # Parameters as an argument: arrays that a jitted function closes over become constants.
        lambda params, batch: objective.columns(
            {role: (model, params[role]) for role, (model, _) in models.items()}, batch
        )
    )
    params = {role: tree for role, (_, tree) in models.items()}
    columns: dict[str, np.ndarray] = {}
    for numbers, batch in passes(rows, layout):
        # Every host holds the columns of all rows: in a later epoch it may read any of them.
        values = multihost_utils.process_allgather(compute(params, batch), tiled=True)
        for name, value_B in values.items():
            column = columns.setdefault(
                _in_row(name), np.zeros((len(rows), *value_B.shape[1:]), value_B.dtype)
            )
            column[numbers] = value_B[: len(numbers)]  # the last batch ends with filler rows
        alive()
    rows.columns.update(columns)
    if is_first():
        # Written when all columns are complete, by one rename: a partial cache would be taken for a full one.
        packed = io.BytesIO()
        np.savez(packed, **columns)
        write_bytes(cache, packed.getvalue())


def _in_row(name: str) -> str:
    """`reference_chosen_BP` of a batch is `reference_chosen_P` of a row."""
    stem, letters = name.rsplit("_", 1)
    return f"{stem}_{letters.replace('B', '')}"
