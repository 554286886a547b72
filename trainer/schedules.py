"""Learning rate over the steps of a phase: linear from 0 to the peak over `warmup_steps`, and from there as
each says.
"""

from typing import Any, Literal

import jax.numpy as jnp
import optax
from pydantic import BaseModel, Field, NonNegativeInt, PositiveFloat, PositiveInt


class Constant(BaseModel, frozen=True, extra="forbid", strict=True):
    """The peak to the end."""

    warmup_steps: NonNegativeInt

    def of(self, peak_lr: PositiveFloat, steps: int) -> optax.Schedule:
        """Step number -> learning rate."""
        return _warmed_up(peak_lr, self.warmup_steps, optax.constant_schedule(peak_lr))

    def problems(self, steps: int) -> list[str]:
        """Rules between this and the length of the phase."""
        return _too_long("warmup_steps", self.warmup_steps, steps)


class WarmupCosine(BaseModel, frozen=True, extra="forbid", strict=True):
    """A half cosine down to `end_frac` of the peak when all steps are made (Loshchilov and Hutter 2017)."""

    warmup_steps: NonNegativeInt
    end_frac: float = Field(ge=0, le=1)

    def of(self, peak_lr: PositiveFloat, steps: int) -> optax.Schedule:
        """Step number -> learning rate."""
        decay_steps = max(steps, self.warmup_steps + 1)  # optax counts the warmup in
        return optax.warmup_cosine_decay_schedule(
            0.0, peak_lr, self.warmup_steps, decay_steps, peak_lr * self.end_frac
        )

    def problems(self, steps: int) -> list[str]:
        """Rules between this and the length of the phase."""
        return _too_long("warmup_steps", self.warmup_steps, steps)


class WarmupLinear(BaseModel, frozen=True, extra="forbid", strict=True):
    """A straight line down to `end_frac` of the peak when all steps are made."""

    warmup_steps: NonNegativeInt
    end_frac: float = Field(ge=0, le=1)

    def of(self, peak_lr: PositiveFloat, steps: int) -> optax.Schedule:
        """Step number -> learning rate."""
        down = optax.linear_schedule(peak_lr, peak_lr * self.end_frac, max(steps - self.warmup_steps, 1))
        return _warmed_up(peak_lr, self.warmup_steps, down)

    def problems(self, steps: int) -> list[str]:
        """Rules between this and the length of the phase."""
        return _too_long("warmup_steps", self.warmup_steps, steps)


class WSD(BaseModel, frozen=True, extra="forbid", strict=True):
    """Warmup, stable, decay: the peak until the last `decay_steps`, then down to `end_frac` of it (Hu et
    al. 2024).

    With "linear" by the share x of the decay that is done, with "1-sqrt" by its root (Hägele et al. 2024,
    eq. 1). A run that was stopped before its decay goes on with more steps as if they had been asked for at
    once.
    """

    warmup_steps: NonNegativeInt
    decay_steps: PositiveInt
    end_frac: float = Field(ge=0, le=1)
    shape: Literal["linear", "1-sqrt"]

    def of(self, peak_lr: PositiveFloat, steps: int) -> optax.Schedule:
        """Step number -> learning rate."""
        power = {"linear": 1.0, "1-sqrt": 0.5}[self.shape]

        def stable_then_down(step: Any) -> Any:
            done = jnp.clip((step + self.warmup_steps - (steps - self.decay_steps)) / self.decay_steps, 0, 1)
            return peak_lr * (1 - (1 - self.end_frac) * done**power)

        return _warmed_up(peak_lr, self.warmup_steps, stable_then_down)

    def problems(self, steps: int) -> list[str]:
        """Rules between this and the length of the phase."""
        return _too_long("warmup_steps + decay_steps", self.warmup_steps + self.decay_steps, steps)


class InverseSqrt(BaseModel, frozen=True, extra="forbid", strict=True):
    """Down with the root of the step: peak · sqrt(warmup_steps / step) (Vaswani et al. 2017, eq. 3),
    whatever the length of the phase.
    """

    warmup_steps: PositiveInt

    def of(self, peak_lr: PositiveFloat, steps: int) -> optax.Schedule:
        """Step number -> learning rate."""
        return _warmed_up(
            peak_lr,
            self.warmup_steps,
            lambda step: peak_lr * (1 + jnp.maximum(step, 0) / self.warmup_steps) ** -0.5,
        )

    def problems(self, steps: int) -> list[str]:
        """Rules between this and the length of the phase."""
        return _too_long("warmup_steps", self.warmup_steps, steps)


def _warmed_up(peak_lr: float, warmup_steps: int, then: optax.Schedule) -> optax.Schedule:
    """Up to the peak, and `then` from step 0 of its own."""
    return (
        optax.join_schedules([optax.linear_schedule(0.0, peak_lr, warmup_steps), then], [warmup_steps])
        if warmup_steps
        else then
    )


def _too_long(what: str, asked: int, steps: int) -> list[str]:
    if asked <= steps:
        return []
    return [f"optimizer.schedule.{what}={asked} exceeds steps={steps}; lower it or raise steps"]
