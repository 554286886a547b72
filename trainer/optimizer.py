"""Optimizer: a rule and what stands around every rule, from clipping to weight decay to averaging."""

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


# searched for in full parameter names, such as `layers.wq_NDHA`
Pattern = Annotated[str, AfterValidator(_checked_pattern)]


class Optimizer(BaseModel, frozen=True, extra="forbid", strict=True):
    """How gradients become updates of the parameters.

    Attributes:
        rule: Gradient -> direction of the update; everything else here is the same for every rule.
        peak_lr: Learning rate at the top of the schedule.
        schedule: Step -> share of `peak_lr`.
        weight_decay: Decoupled, of matrices alone: a step shrinks them by learning rate times this.
        clip_norm: Norm of all gradients together above which they are scaled down.
        clip_each: The same for the gradient of each parameter; of a stack, for each layer alone.
        no_decay: Patterns of matrices without weight decay.
        ema_decay: Decay of an exponential mean of the parameters, which evaluations and later phases read.
        mup_base_width: Width at which `peak_lr` was found, for models that are wider (common/mup.py).
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
        """Sentences on fields that do not go with each other or with a phase of `steps`."""
        problems = self.schedule.problems(steps)
        if self.mup_base_width is not None and not self.rule.supports_mup:
            name = type(self.rule).__name__
            given = f"optimizer.mup_base_width={self.mup_base_width} is not defined for rule {name}"
            why = "whose updates do not scale with the width as Adam's do"
            problems.append(f"{given}, {why}; remove it or choose AdamW, AdamW8bit or Lion")
        return problems

    def chain(self, steps: int) -> optax.GradientTransformation:
        """The optax transformation for a phase of `steps`.

        Widths are scaled before weight decay: learning rate times decay must not depend on the width. The
        average comes last, since it reads the parameters as the final update leaves them.
        """
        links = [self.rule.core()]
        # an absent link leaves no empty state in checkpoints
        if self.clip_each:
            links.insert(0, clip_each(self.clip_each))
        # before `clip_each`: the norm of all gradients is meant as the loss gives them
        if self.clip_norm:
            links.insert(0, optax.clip_by_global_norm(self.clip_norm))
        if self.mup_base_width:
            links.append(scale_by_width(self.mup_base_width))
        # decoupled: added to the direction, so that the rule's moments never see it
        links.append(optax.add_decayed_weights(self.weight_decay, decay_mask(self.no_decay)))
        # It also turns the sign: from here on the direction is an update to be added.
        links.append(optax.scale_by_learning_rate(self.learning_rate(steps)))
        if self.ema_decay:
            links.append(average(self.ema_decay))
        return optax.chain(*links)
