"""The settings of checkpoints: when they are saved, and which are kept."""

import datetime
from collections.abc import Sequence
from typing import Literal, NamedTuple

from orbax.checkpoint import checkpoint_managers as policies
from pydantic import BaseModel, PositiveInt, model_validator

from data_pipeline.component import PathText
from trainer.checkpoints.manifest import Level


class Best(BaseModel, frozen=True, extra="forbid", strict=True):
    """Keep the `keep` checkpoints with the best `metric`, such as `eval/web/loss`.

    Only checkpoints that were saved right after the metric was measured count.
    """

    metric: str
    better: Literal["lower", "higher"]
    keep: PositiveInt = 1


class Checkpoints(BaseModel, frozen=True, extra="forbid", strict=True):
    """Save every `every_steps` and at the end; a checkpoint that no rule below keeps is deleted.

    Attributes:
        keep: This many of the newest are kept.
        keep_every_steps: Checkpoints at multiples of this step are kept forever.
        keep_every_s: The first checkpoint, and then one every this many seconds, are kept forever.
        best: The best by a metric are kept.
        verify: What of the files is compared with the manifest before a checkpoint is used: nothing ("off"),
            sizes, or also hashes ("full"), for which everything is read twice. The fingerprints of all arrays
            are compared in any case.
        local: A folder on a fast disk or in memory (`/dev/shm/…`) that all processes see, for a further copy
            every `local_every_steps`. The run resumes from the newest undamaged checkpoint of both folders.
        host_gb: The most gigabytes of arrays that a save may hold in host memory; the loop then waits until
            everything is written. None = copy everything to the host at once and go on.
    """

    every_steps: PositiveInt
    keep: PositiveInt = 2
    keep_every_steps: PositiveInt | None = None
    keep_every_s: PositiveInt | None = None
    best: Best | None = None
    verify: Level = "full"
    # A copy in memory is lost with the machine, so it never replaces the durable one.
    local: PathText | None = None
    local_every_steps: PositiveInt | None = None
    # None needs as much host memory as the state takes on this host's devices.
    host_gb: PositiveInt | None = None

    @model_validator(mode="after")
    def _check_local(self) -> "Checkpoints":
        if (self.local is None) != (self.local_every_steps is None):
            both = f"local={self.local} and local_every_steps={self.local_every_steps}"
            raise ValueError(f"{both} belong together; set both or none")
        return self

    def problems(self, evaluate_every: int) -> list[str]:
        """`best` ranks checkpoints by numbers saved with them, so each save has to follow an evaluation."""
        if not self.best or (evaluate_every and evaluate_every % self.every_steps == 0):
            return []
        rule = f"evaluate_every={evaluate_every} is no multiple of "
        rule += f"checkpoint.every_steps={self.every_steps}"
        return [f"{rule}, so no checkpoint could be best; make it one"]


class Kept(NamedTuple):
    """A checkpoint on the disk, with the attributes that Orbax's policies read.

    `metrics` is None where the metric of `best` was not measured.
    """

    step: int
    time: datetime.datetime
    metrics: dict[str, float] | None


def superseded(kept: Sequence[Kept], settings: Checkpoints) -> list[int]:
    """Steps that no rule keeps; `kept` in the order of steps."""
    rules: list[policies.PreservationPolicy] = [policies.LatestN(settings.keep)]
    if settings.keep_every_steps:
        rules.append(policies.EveryNSteps(settings.keep_every_steps))
    if settings.keep_every_s:
        rules.append(policies.EveryNSeconds(settings.keep_every_s))
    if best := settings.best:
        rules.append(
            policies.BestN(
                get_metric_fn=lambda metrics: metrics[best.metric],
                reverse=best.better == "lower",  # Orbax sorts ascending and keeps the last ones
                n=best.keep,
                keep_checkpoints_without_metrics=False,
            )
        )
    # these policies ignore the context, but their signature requires one
    context = policies.PreservationContext()
    preserved = policies.AnyPreservationPolicy(rules).should_preserve(kept, context=context)
    return [each.step for each, stays in zip(kept, preserved, strict=True) if not stays]
