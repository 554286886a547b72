"""Learning rate over the steps of a phase: a warmup in a straight line, peak · i/warmup_steps at its step i
= 1, 2, …, so that no step has rate 0; then as each schedule says.
"""

from typing import Any, Literal

import jax.numpy as jnp
import optax
from pydantic import BaseModel, Field, NonNegativeInt, PositiveFloat, PositiveInt


class Constant(BaseModel, frozen=True, extra="forbid", strict=True):
    """The peak to the end, after a warmup."""

    warmup_steps: NonNegativeInt

    def of(self, peak_lr: PositiveFloat, steps: int) -> optax.Schedule:
        """Step number -> learning rate."""
        return _after_warmup(peak_lr, self.warmup_steps, optax.constant_schedule(peak_lr))

    def problems(self, steps: int) -> list[str]:
        """Sentences on fields that do not fit a phase of `steps`."""
        return _too_long("warmup_steps", self.warmup_steps, steps)


class WarmupCosine(BaseModel, frozen=True, extra="forbid", strict=True):
    """A half cosine down to `end_frac` of the peak at the last step (Loshchilov and Hutter 2017)."""

    warmup_steps: NonNegativeInt
    end_frac: float = Field(ge=0, le=1)

    def of(self, peak_lr: PositiveFloat, steps: int) -> optax.Schedule:
        """Step number -> learning rate."""
        # at least 1, which optax requires, where all steps are warmup
        decay_steps = max(steps - self.warmup_steps, 1)
        decay = optax.cosine_decay_schedule(peak_lr, decay_steps, alpha=self.end_frac)
        return _after_warmup(peak_lr, self.warmup_steps, decay)

    def problems(self, steps: int) -> list[str]:
        """Sentences on fields that do not fit a phase of `steps`."""
        return _too_long("warmup_steps", self.warmup_steps, steps)


class WarmupLinear(BaseModel, frozen=True, extra="forbid", strict=True):
    """A straight line down to `end_frac` of the peak at the last step."""

    warmup_steps: NonNegativeInt
    end_frac: float = Field(ge=0, le=1)

    def of(self, peak_lr: PositiveFloat, steps: int) -> optax.Schedule:
        """Step number -> learning rate."""
        decay_steps = max(steps - self.warmup_steps, 1)
        # `decay` counts its steps from the end of the warmup
        decay = optax.linear_schedule(peak_lr, peak_lr * self.end_frac, decay_steps)
        return _after_warmup(peak_lr, self.warmup_steps, decay)

    def problems(self, steps: int) -> list[str]:
        """Sentences on fields that do not fit a phase of `steps`."""
        return _too_long("warmup_steps", self.warmup_steps, steps)


class WSD(BaseModel, frozen=True, extra="forbid", strict=True):
    """Warmup, stable, decay: the peak until the last `decay_steps`, then to `end_frac` (Hu et al. 2024).

    With x the share of the decay that is done, the rate falls in proportion to x ("linear") or to sqrt(x)
    ("1-sqrt", Hägele et al. 2024). A run that is stopped before its decay can resume with more steps: the
    result is that of a run that had them from the start.
    """

    warmup_steps: NonNegativeInt
    decay_steps: PositiveInt
    end_frac: float = Field(ge=0, le=1)
    shape: Literal["linear", "1-sqrt"]

    def of(self, peak_lr: PositiveFloat, steps: int) -> optax.Schedule:
        """Step number -> learning rate."""
        power = 1.0 if self.shape == "linear" else 0.5

        def stable_then_decay(step: Any) -> Any:
            # `step` counts from the end of the warmup
            step_in_decay = step + self.warmup_steps - (steps - self.decay_steps)
            # clipped: negative before the decay, and optax may ask for steps after the last one
            done = jnp.clip(step_in_decay / self.decay_steps, 0, 1)
            return peak_lr * (1 - (1 - self.end_frac) * done**power)

        return _after_warmup(peak_lr, self.warmup_steps, stable_then_decay)

    def problems(self, steps: int) -> list[str]:
        """Sentences on fields that do not fit a phase of `steps`."""
        return _too_long("warmup_steps + decay_steps", self.warmup_steps + self.decay_steps, steps)


class InverseSqrt(BaseModel, frozen=True, extra="forbid", strict=True):
    """Down with the root of the step: peak · sqrt(warmup_steps / step) (Vaswani et al. 2017, eq. 3).

    It does not depend on the length of the phase.
    """

    warmup_steps: PositiveInt

    def of(self, peak_lr: PositiveFloat, steps: int) -> optax.Schedule:
        """Step number -> learning rate."""

        def decay(step: Any) -> Any:
            # optax also evaluates it during the warmup, where `step` is negative and the root NaN
            return peak_lr * (1 + jnp.maximum(step, 0) / self.warmup_steps) ** -0.5

        return _after_warmup(peak_lr, self.warmup_steps, decay)

    def problems(self, steps: int) -> list[str]:
        """Sentences on fields that do not fit a phase of `steps`."""
        return _too_long("warmup_steps", self.warmup_steps, steps)


def _after_warmup(peak_lr: float, warmup_steps: int, then: optax.Schedule) -> optax.Schedule:
    """A linear rise to the peak, and then the schedule `then`, whose steps count from the warmup's end."""
    if warmup_steps == 0:
        return then

    def warmup(step: Any) -> Any:
        # + 1: optax counts steps from 0, and a first step of rate 0 would change nothing.
        return peak_lr * (step + 1) / warmup_steps

    # join_schedules calls `then` with the step minus the boundary.
    return optax.join_schedules([warmup, then], [warmup_steps])


def _too_long(fields: str, wanted: int, steps: int) -> list[str]:
    if wanted <= steps:
        return []
    return [f"optimizer.schedule.{fields}={wanted} exceeds steps={steps}; lower it or raise steps"]
