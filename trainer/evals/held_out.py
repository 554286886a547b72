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
from trainer.batches.shards import n_passes, passes, spread
from trainer.cluster.agreement import check_alike
from trainer.evals.subject import Findings, Subject
from trainer.objective import Objective, Policies
from trainer.problems import gives
from trainer.run import Run

Sums = dict[str, tuple[float, float]]  # metric -> (sum, weight)


class HeldOut(BaseModel, frozen=True, extra="forbid", strict=True):
    """An objective's metrics on each source of held-out data; `max_rows` bounds what is read of each.

    The objective is the run's, or one of its own: DPO can also watch the loss of chats by `NextToken()`.
    Of several sources also macro/METRIC, the mean over the sources, and micro/METRIC, over all of their
    targets together. A `name` goes before the sources: NAME/web/loss, NAME/macro/loss.
    """

    data: one_of("data_pipeline.loader")
    objective: one_of("trainer.objectives") | None = None
    max_rows: PositiveInt | None = None
    name: str = Field("", pattern=r"^([a-z][a-z0-9_]*)?$")

    def problems(self, run: Run) -> list[str]:
        """Rules between this and the run that it evaluates."""
        objective = self.objective or run.objective
        problems = []
        fits_objective = gives(self.data.batch_type, objective)
        fits_context = self.data.row_length <= run.architecture.context
        if not fits_objective or not fits_context:
            what = f"{type(self.data).__name__} of seq_len={self.data.row_length}"
            whose = "its own" if self.objective else "the run's"
            rule = f"does not fit {whose} objective or the context"
            problems.append(f"evals: {what} {rule}; choose it like `data`")

        # an evaluation can only use the roles and heads that the run's own objective has
        built = {*run.objective.roles, *run.objective.heads}
        wanted = (*objective.roles, *objective.heads)
        lacking = [name for name in wanted if name not in built]
        if lacking:
            what = f"its own objective needs {lacking[0]}, which the run does not have"
            problems.append(f"evals: {what}; use another")

        held_outs = [each for each in run.evals if isinstance(each, HeldOut)]
        for label in self._labels():
            # Two under one label would write the same metric twice in a row.
            n_reporting = sum(label in each._labels() for each in held_outs)
            if n_reporting > 1:
                problems.append(f"evals: two HeldOut report {label}; give one of them another name")
                break
        return problems

    def open(self, subject: Subject, first: Callable[[], Policies]) -> Callable[[Params], Findings]:
        """Open the shards, and let the phase's first policy compute the columns that the objective wants."""
        # Its own objective if it has one: columns and metrics are then of that.
        subject = subject._replace(objective=self.objective or subject.objective)
        sizes = self.data.sizes()
        layout = Layout(subject.objective.batch_type, sizes, subject.mesh)
        without_columns = Layout(self.data.batch_type, sizes, subject.mesh)
        sources = self.data.sources(subject.job_folder)
        # Every batch is a collective: one process with fewer rows would leave the others waiting.
        fingerprints = {f"held-out shards of {name}": x.fingerprint for name, x in sources.items()}
        check_alike(fingerprints, remedy="give all processes the same shards")
        n_bytes = {}
        for name, rows in sources.items():
            add_columns(
                rows,
                subject.objective,
                without_columns,
                first,
                folder=subject.folder / "columns",
                made_by=subject.first_policy_digest,
                resumed=subject.resumed,
                say=subject.say,
                progress=subject.progress,
            )
            n_bytes[name] = self._n_bytes(rows, subject.tokenizer)

        def measure(params: Params) -> Findings:
            sums = {}
            means = {}
            for name, rows in sources.items():
                sums[name] = _sums(subject, layout, rows, params, self.max_rows, name)
                means[name] = _means(sums[name], n_bytes[name])
            if len(sources) > 1:
                # Macro: every source counts alike. Micro: every target counts alike.
                macro = _mean_of(list(means.values()))
                # From sums, not from the sources' means: those have lost their weights.
                of_all = _total(list(sums.values()))
                micro = _means(of_all, sum(n_bytes.values()))
                means |= {"macro": macro, "micro": micro}
            return Findings(self._named(means), [])

        return measure

    def _named(self, means: dict[str, dict[str, float]]) -> dict[str, float]:
        numbers = {}
        for source, values in means.items():
            for metric, value in values.items():
                numbers[f"{self._label(source)}/{metric}"] = value
        return numbers

    def _labels(self) -> list[str]:
        """What stands before the metrics: the names of the sources, and of the averages over several."""
        names = self.data.source_names()
        if len(names) > 1:
            names = [*names, "macro", "micro"]
        return [self._label(name) for name in names]

    def _label(self, source: str) -> str:
        return f"{self.name}/{source}" if self.name else source

    def _n_bytes(self, rows: PackedRows, tokenizer: Tokenizer) -> int:
        """UTF-8 bytes of all targets, for bits per byte."""
        n = 0
        for number in spread(rows, self.max_rows):
            row = rows[number]
            lengths_L = tokenizer.byte_lengths[row["targets_L"]]
            # A byte counts once if its token is a target, however much the target weighs.
            is_target_L = row["weight_L"] > 0
            n += int(np.sum(lengths_L * is_target_L))
        return n


def _sums(
    subject: Subject,
    layout: Layout,
    rows: PackedRows,
    params: Params,
    max_rows: int | None,
    name: str,
) -> Sums:
    """Each metric's sum and weight over all rows, added in float64."""
    sums: Sums = {}
    params_of = {role: tree for role, (_, tree) in subject.policies(params).items()}
    models = tuple(subject.models.items())  # a static argument has to be hashable
    n_batches = n_passes(rows, layout, max_rows)
    with subject.progress(f"    evaluate {name}", n_batches, unit="batches") as advance:
        for _, batch in passes(rows, layout, max_rows):
            metrics = _metrics(params_of, batch, models=models, objective=subject.objective)
            # Python floats are float64: a float32 sum over millions of targets would lose digits.
            for metric, (total, weight) in jax.device_get(metrics).items():
                total_before, weight_before = sums.get(metric, (0.0, 0.0))
                sums[metric] = (total_before + float(total), weight_before + float(weight))
            advance()
    return sums


@partial(jax.jit, static_argnames=("models", "objective"))
def _metrics(
    params_of: dict[str, Params],
    batch: Any,
    *,
    models: tuple[tuple[str, Model], ...],
    objective: Objective,
) -> dict[str, Any]:
    policies = {role: (model, params_of[role]) for role, model in models}
    denominators = objective.denominators(batch)
    # The same key each time: an evaluation of the same parameters gives the same numbers.
    loss = objective.loss(policies, batch, denominators, jax.random.key(0))
    return loss.metrics


def _total(sums: list[Sums]) -> Sums:
    """The sums and weights of several sources, added."""
    names = sorted({name for each in sums for name in each})
    total = {}
    for name in names:
        # A source may lack a metric, such as that of another kind of batch.
        pairs = [each[name] for each in sums if name in each]
        values, weights = zip(*pairs, strict=True)
        total[name] = (math.fsum(values), math.fsum(weights))
    return total


def _mean_of(means: list[dict[str, float]]) -> dict[str, float]:
    """Each metric's mean over the sources that have it."""
    names = sorted({name for each in means for name in each})
    mean = {}
    for name in names:
        values = [each[name] for each in means if name in each]
        mean[name] = math.fsum(values) / len(values)
    return mean


def _means(sums: Sums, n_bytes: int) -> dict[str, float]:
    """Means; of a log-likelihood also bits a byte of text, and how far it compresses the text (raw bytes by
    coded bytes).
    """
    means = {}
    for name, (total, weight) in sums.items():
        if weight:
            means[name] = total / weight
    if "nll" in means:
        nll, _ = sums["nll"]
        # From nats to bits, and over all bytes: the one figure that can be compared between tokenizers.
        bits_per_byte = nll / math.log(2) / n_bytes
        means["loss"] = means.pop("nll")
        means["bits_per_byte"] = bits_per_byte
        means["compression_ratio"] = 8 / bits_per_byte
    return means
