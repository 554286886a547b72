"""Columns: fields of a batch that a model computes once before a phase, such as DPO's reference
log-probabilities. They spare a second model in memory.
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from data_pipeline.files import is_proved, write_bytes
from data_pipeline.rows.packed import PackedRows
from data_pipeline.settings import digest
from trainer.batches.layout import Layout
from trainer.batches.shards import n_passes, passes
from trainer.cluster.coordination import first_says, is_first
from trainer.following import no_progress
from trainer.objective import Objective, Policies


def add_columns(
    rows: PackedRows,
    objective: Objective,
    layout: Layout,
    policies: Callable[[], Policies],
    *,
    folder: Path,
    made_by: str,
    resumed: bool,
    alive: Callable[[], None] = lambda: None,
    say: Callable[[str], None] = print,
    progress: Callable[..., Any] = no_progress,
) -> None:
    """Add to the rows the columns that `objective.columns` computes under `policies()`, and cache them in
    `folder` for a resumed run. `layout` is that of the data without the columns, `made_by` a digest of what
    the first policy depends on.

    A phase that starts anew ignores and overwrites the cache: it may be of another model (another
    `start_from`, say), and a cache that is not what was written is computed again. `alive` is called after
    every batch, `say` with a line for the user.
    """
    if objective.columns is None:
        return
    # Named by all that the columns depend on: other data under the same name has others. The repr of a
    # component has its type and its fields.
    cache = folder / f"{digest([rows.fingerprint, repr(objective), made_by])}.npz"
    if resumed and _is_usable(cache, say):
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
    what = "    reference numbers"
    with progress(what, n_passes(rows, layout), unit="batches") as advance:
        for numbers, batch in passes(rows, layout):
            # Every host holds the columns of all rows: in a later epoch it may read any of them.
            values = multihost_utils.process_allgather(compute(params, batch), tiled=True)
            for name, value_B in values.items():
                column = columns.setdefault(
                    _in_row(name), np.zeros((len(rows), *value_B.shape[1:]), value_B.dtype)
                )
                column[numbers] = value_B[: len(numbers)]  # the last batch ends with filler rows
            alive()
            advance()
    rows.columns.update(columns)
    if is_first():
        # Written when all columns are complete, by one rename: a partial cache would be taken for a full one.
        packed = io.BytesIO()
        np.savez(packed, **columns)
        write_bytes(cache, packed.getvalue(), sealed=True)


def _is_usable(cache: Path, say: Callable[[str], None]) -> bool:
    """Whether process 0 finds the columns that were written; says so if they are others."""
    usable = False
    if is_first():
        usable = is_proved(cache)
        if cache.exists() and not usable:
            say(f"  {cache} is not what was written; computed again")
    return bool(first_says(usable)[0])


def _in_row(name: str) -> str:
    """`reference_chosen_BP` of a batch is `reference_chosen_P` of a row."""
    stem, letters = name.rsplit("_", 1)
    return f"{stem}_{letters.replace('B', '')}"
