"""Optimizer: an update rule, and what surrounds every rule: clipping, schedule, weight decay, averaging."""

import re
from typing import Annotated

import optax
from pydantic import AfterValidator, BaseModel, PositiveFloat, PositiveInt

from data_pipeline.component import one_of
from trainer.optimizers.common.chain import average, clip_each, decay_mask
from trainer.optimizers.common.mup import scale_by_width
from trainer.optimizers.common.rule import NonNegative, Rate


def _checked_pattern(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
    return pattern


# a regular expression, searched for in full parameter names such as `layers.wq_NDHA`
Pattern = Annotated[str, AfterValidator(_checked_pattern)]


class Optimizer(BaseModel, frozen=True, extra="forbid", strict=True):
    """How gradients become updates of the parameters.

    Attributes:
        rule: Gradient -> direction of the update; everything else here is the same for every rule.
        peak_lr: Learning rate at the top of the schedule.
        schedule: Step -> share of `peak_lr`.
        weight_decay: Decoupled, of matrices alone: a step shrinks them by learning rate times this.
        clip_norm: Gradients are scaled down when their global norm exceeds this.
        clip_each: The same for the norm of each parameter's gradient; in a stack, of each layer's.
        no_decay: Regular expressions of names of matrices without weight decay.
        ema_decay: Decay of an exponential mean of the parameters, which evaluations and later phases read.
        mup_base_width: Width at which `peak_lr` was tuned, for muP on wider models (common/mup.py).
    """

    rule: one_of("trainer.optimizers")
    peak_lr: PositiveFloat
    schedule: one_of("trainer.schedules")
    weight_decay: NonNegative
    clip_norm: PositiveFloat | None = 1.0
    clip_each: PositiveFloat | None = None
    no_decay: tuple[Pattern, ...] = ()
    ema_decay: Rate | None = None
    mup_base_width: PositiveInt | None = None

    def learning_rate(self, steps: int) -> optax.Schedule:
        """Step number -> learning rate, in a phase of `steps`."""
        return self.schedule.of(self.peak_lr, steps)

    def problems(self, steps: int) -> list[str]:
        """Sentences on fields that contradict each other or a phase of `steps`."""
        problems = self.schedule.problems(steps)
        if self.mup_base_width is not None and not self.rule.supports_mup:
            name = type(self.rule).__name__
            given = f"optimizer.mup_base_width={self.mup_base_width} is not defined for rule {name}"
            why = "whose updates do not scale with the width as Adam's do"
            problems.append(f"{given}, {why}; remove it or choose AdamW, AdamW8bit or Lion")
        return problems

    def chain(self, steps: int) -> optax.GradientTransformation:
        """The optax transformation for a phase of `steps`.

        muP scales before weight decay is added: learning rate times decay must not depend on the width. The
        average comes last, since it is of the parameters after the final update.
        """
        links = [self.rule.core()]
        # Absent links are left out rather than made no-ops: each link has a state in the checkpoint.
        if self.clip_each:
            links.insert(0, clip_each(self.clip_each))
        # In front of `clip_each`: the global norm is that of the unclipped gradients.
        if self.clip_norm:
            links.insert(0, optax.clip_by_global_norm(self.clip_norm))
        if self.mup_base_width:
            links.append(scale_by_width(self.mup_base_width))
        # Decoupled: added after the rule, so that its moments never see the decay.
        links.append(optax.add_decayed_weights(self.weight_decay, decay_mask(self.no_decay)))
        # This also flips the sign: from here on updates are added to the parameters.
        links.append(optax.scale_by_learning_rate(self.learning_rate(steps)))
        if self.ema_decay:
            links.append(average(self.ema_decay))
        return optax.chain(*links)
