"""Which steps count: one whose loss or gradient norm is NaN or infinite, or far above the recent ones, is
skipped, and too many in a row end the run or send it back (trainer/checkpoints/rollback.py).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int
from pydantic import BaseModel, NonNegativeInt, PositiveFloat, PositiveInt


class History(NamedTuple):
    """Losses and gradient norms of the last healthy steps, in ring buffers, and counts over all steps.

    They are part of the state: a resumed run judges as the uninterrupted one would.
    """

    losses: Float[Array, " window"]
    norms: Float[Array, " window"]
    n_healthy: Int[Array, ""]
    n_skipped: Int[Array, ""]  # steps with NaN or infinity
    n_spikes: Int[Array, ""]
    streak: Int[Array, ""]  # bad steps in a row, the newest step included; 0 after a healthy one


class Guarded(NamedTuple):
    """The guard's history beside the optimizer's own state, `inner`."""

    history: History
    inner: Any


class Guard(BaseModel, frozen=True, extra="forbid", strict=True):
    """What happens after bad steps: those with NaN, infinity or a spike. Their updates are always dropped.

    Attributes:
        window: Healthy steps that a step is compared with; bad steps never enter, so that one spike does not
            excuse the next.
        sigmas: A loss or gradient norm this many standard deviations above the window's mean is a spike;
            None = nothing is a spike.
        patience: Bad steps in a row after which the run goes back to its newest checkpoint before them and
            leaves out their rows.
        max_rollbacks: Rollbacks of a phase. When they are used up, `patience` spikes in a row are accepted as
            the data's new level, and as many steps with NaN or infinity end the phase (exit code 4).
    """

    window: PositiveInt = 128
    sigmas: PositiveFloat | None = 6.0
    patience: PositiveInt = 8
    max_rollbacks: NonNegativeInt = 3

    def new_history(self) -> History:
        """The history before the first step."""
        # Six separate arrays: a step donates its state, and the same array cannot be donated twice.
        return History(
            losses=jnp.zeros(self.window, jnp.float32),
            norms=jnp.zeros(self.window, jnp.float32),
            n_healthy=jnp.zeros((), jnp.int32),
            n_skipped=jnp.zeros((), jnp.int32),
            n_spikes=jnp.zeros((), jnp.int32),
            streak=jnp.zeros((), jnp.int32),
        )

    def judge(
        self, history: History, loss: Float[Array, ""], norm: Float[Array, ""]
    ) -> tuple[Bool[Array, ""], History]:
        """(whether a step with this loss and gradient norm is healthy, the history after it)."""
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        loss_spikes = self._is_spike(history.losses, history.n_healthy, loss)
        norm_spikes = self._is_spike(history.norms, history.n_healthy, norm)
        # Infinity exceeds every limit; it counts as skipped, not as a spike.
        spike = finite & (loss_spikes | norm_spikes)
        healthy = finite & ~spike
        # a bad step gets an index past the ring's end, which mode="drop" does not write
        slot = jnp.where(healthy, history.n_healthy % self.window, self.window)
        return healthy, History(
            losses=history.losses.at[slot].set(loss, mode="drop"),
            norms=history.norms.at[slot].set(norm, mode="drop"),
            n_healthy=history.n_healthy + healthy,
            n_skipped=history.n_skipped + ~finite,
            n_spikes=history.n_spikes + spike,
            streak=jnp.where(healthy, 0, history.streak + 1),
        )

    def _is_spike(self, recent: Array, n_healthy: Array, x: Array) -> Array:
        if self.sigmas is None:
            return jnp.zeros((), bool)
        # Over the whole ring: `is_full` below discards the result while some entries are still zeros.
        mean = jnp.mean(recent)
        # At least a thousandth of the mean: beside a constant loss, mere rounding would be a spike.
        spread = jnp.maximum(jnp.std(recent), 1e-3 * jnp.abs(mean))
        is_full = n_healthy >= self.window
        return is_full & (x > mean + self.sigmas * spread)


STANDARD = Guard()


class Verdict(NamedTuple):
    """The guard's judgement of step `number`, on the host."""

    number: int
    streak: int  # bad steps in a row up to and with this one; 0 = it is healthy
    finite: bool  # whether its loss and gradient norm are finite


def kept_if(healthy: Bool[Array, ""], new: Any, old: Any) -> Any:
    """`new` if the step is healthy, else `old` bit for bit; decided on the device, so no host waits."""
    # A select, not a product with 0 or 1: 0 · NaN is NaN.
    return jax.tree.map(lambda x, y: jnp.where(healthy, x, y), new, old)


def with_new_window(opt_state: Guarded) -> Guarded:
    """The state with an empty window, so that nothing is a spike until it is full again; counts stay."""
    history = opt_state.history
    # products with 0 keep dtype and layout
    cleared = history._replace(n_healthy=0 * history.n_healthy, streak=0 * history.streak)
    return opt_state._replace(history=cleared)


def counts(history: History) -> dict[str, tuple[Array, float]]:
    """The counts as metrics of a step, `guard/NAME` -> (sum, weight)."""
    by_name = {"skipped": history.n_skipped, "spikes": history.n_spikes, "streak": history.streak}
    # All metrics are logged as sum / weight; the weight 1 leaves the count itself.
    return {f"guard/{name}": (n, 1.0) for name, n in by_name.items()}
