"""The objective's metrics on held-out data: sums over a whole set, divided once."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from pydantic import BaseModel, Field, PositiveInt

from data_pipeline.component import one_of
from data_pipeline.loader import PackedRows
from data_pipeline.tokenizers.tokenizer import Tokenizer
from model.api import Model, Params
from trainer.batches.columns import add_columns
from trainer.batches.layout import Layout
from trainer.batches.shards import passes, spread
from trainer.evals.subject import Findings, Subject
from trainer.objective import Objective, Policies
from trainer.run import Run, gives


class HeldOut(BaseModel, frozen=True, extra="forbid", strict=True):
    """The objective's metrics on each source of held-out data; `max_rows` bounds what is read of each.

    Of several sources also macro/METRIC, the mean over the sources, and micro/METRIC, over all of their
    targets together. Where a run has
    several of these, the `name` of each goes before its sources: NAME/web/loss, NAME/macro/loss.
    """

    data: one_of("data_pipeline.loader")
    max_rows: PositiveInt | None = None
    name: str = Field("", pattern=r"^([a-z][a-z0-9_]*)?$")

    def problems(self, run: Run) -> list[str]:
        """Rules between this and the run that it evaluates."""
        found = []
        fits = gives(self.data.batch_type, run.objective)
        if not fits or self.data.row_length > run.architecture.context:
            what = f"{type(self.data).__name__} of seq_len={self.data.row_length}"
            found.append(f"evals: {what} does not fit the run's objective or context; choose it like `data`")
        if [each.name for each in run.evals if isinstance(each, HeldOut)].count(self.name) > 1:
            found.append(f"evals: two HeldOut have name={self.name!r}; give each a name of its own")
        return found

    def open(self, subject: Subject, first: Callable[[], Policies]) -> Callable[[Params], Findings]:
        """Read the data, and let the phase's first policy compute the columns that the objective wants."""
        of_data = Layout(self.data.batch_type, self.data.sizes(), subject.mesh)
        layout = Layout(subject.objective.batch_type, self.data.sizes(), subject.mesh)
        sources = self.data.sources(subject.job_folder)
        where = {"folder": subject.folder / "columns", "resumed": subject.resumed}
        for rows in sources.values():
            add_columns(rows, subject.objective, of_data, first, **where)
        n_bytes = {name: self._bytes(rows, subject.tokenizer) for name, rows in sources.items()}

        def measure(params: Params) -> Findings:
            sums = {
                name: _sums(subject, layout, rows, params, self.max_rows) for name, rows in sources.items()
            }
            found = {name: _quotients(sums[name], n_bytes[name]) for name in sources}
            if len(sources) > 1:
                found |= {"macro": _mean(found), "micro": _quotients(_total(sums), sum(n_bytes.values()))}
            prefix = f"{self.name}/" if self.name else ""
            return Findings(
                {
                    f"{prefix}{of}/{metric}": value
                    for of, means in found.items()
                    for metric, value in means.items()
                },
                [],
            )

        return measure

    def _bytes(self, rows: PackedRows, tokenizer: Tokenizer) -> int:
        """UTF-8 bytes of all targets, for bits per byte."""
        chosen = map(rows.__getitem__, spread(rows, self.max_rows))
        return sum(
            int(np.sum(tokenizer.byte_lengths[row["targets_L"]] * (row["weight_L"] > 0))) for row in chosen
        )


def _sums(
    subject: Subject, layout: Layout, rows: PackedRows, params: Params, max_rows: int | None
) -> dict[str, tuple[float, float]]:
    """Each metric's (sum, weight) over all rows, added in float64."""
    sums: dict[str, tuple[float, float]] = {}
    policies = subject.policies(params)
    params_of = {role: tree for role, (_, tree) in policies.items()}
    models = tuple(subject.models.items())  # a static argument has to be hashable
    for _, batch in passes(rows, layout, max_rows):
        found = jax.device_get(_metrics(params_of, batch, models=models, objective=subject.objective))
        for name, (total, weight) in found.items():
            before = sums.get(name, (0.0, 0.0))
            sums[name] = before[0] + float(total), before[1] + float(weight)
    return sums


def _total(sums: dict[str, dict[str, tuple[float, float]]]) -> dict[str, tuple[float, float]]:
    """Sums and weights of all sets, added."""
    names = {name for of in sums.values() for name in of}
    return {
        name: tuple(math.fsum(of[name][i] for of in sums.values() if name in of) for i in range(2))
        for name in sorted(names)
    }


def _mean(found: dict[str, dict[str, float]]) -> dict[str, float]:
    """Each metric's mean over the sets that have it."""
    names = {name for means in found.values() for name in means}
    values = {name: [means[name] for means in found.values() if name in means] for name in sorted(names)}
    return {name: math.fsum(x) / len(x) for name, x in values.items()}


@partial(jax.jit, static_argnames=("models", "objective"))
def _metrics(
    params_of: dict[str, Params], batch: Any, *, models: tuple[tuple[str, Model], ...], objective: Objective
) -> dict[str, Any]:
    policies = {role: (model, params_of[role]) for role, model in models}
    return objective.loss(policies, batch, objective.denominators(batch), jax.random.key(0)).metrics


def _quotients(sums: dict[str, tuple[float, float]], n_bytes: int) -> dict[str, float]:
    """Means; of a log-likelihood also bits a byte of text, and how far it compresses the text (raw bytes by
    coded bytes).
    """
    means = {name: total / weight for name, (total, weight) in sums.items() if weight}
    if "nll" in means:
        bits_per_byte = sums["nll"][0] / math.log(2) / n_bytes
        means |= {
            "loss": means.pop("nll"),
            "bits_per_byte": bits_per_byte,
            "compression_ratio": 8 / bits_per_byte,
        }
    return means
