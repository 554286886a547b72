"""When a run must stop, and which of its steps count: a loss or gradient that is NaN or infinite, or far
above the last ones, changes nothing.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int
from pydantic import BaseModel, NonNegativeInt, PositiveFloat, PositiveInt


class History(NamedTuple):
    """Losses and gradient norms of the last healthy steps, in a ring, and counts over all steps. Part of the
    state: a resumed run judges as the uninterrupted one would.
    """

    losses: Float[Array, " window"]
    norms: Float[Array, " window"]
    n_healthy: Int[Array, ""]
    n_skipped: Int[Array, ""]  # NaN or infinite
    n_spikes: Int[Array, ""]
    streak: Int[Array, ""]  # bad steps in a row, up to the last one


class Guarded(NamedTuple):
    """The optimizer's state under the guard."""

    history: History
    inner: Any


class Guard(BaseModel, frozen=True, extra="forbid", strict=True):
    """What happens to steps that go wrong.

    Attributes:
        window: Healthy steps that a step is compared with; bad ones never enter, so that one of them does
            not excuse the next.
        sigmas: A loss or gradient norm so many standard deviations above their mean is a spike, and its
            update is left out like that of one that is NaN or infinite; None = nothing is a spike.
        patience: Bad steps in a row after which the run goes back to its newest checkpoint before them and
            leaves out their rows.
        max_rollbacks: Of a phase; one more ends it (exit code 4). 0 = never go back: bad steps are left out
            and training goes on.
    """

    window: PositiveInt = 128
    sigmas: PositiveFloat | None = 6.0
    patience: PositiveInt = 8
    max_rollbacks: NonNegativeInt = 3

    def new_history(self) -> History:
        """The history before the first step."""
        # Six arrays, none twice: a step donates its state, and an array can be donated once.
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
        """Whether a step is healthy, and the history with it."""
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        loss_spikes = self._is_spike(history.losses, history.n_healthy, loss)
        norm_spikes = self._is_spike(history.norms, history.n_healthy, norm)
        # Infinity exceeds every limit, so it has to be excluded: it counts as skipped, not as a
        # spike.
        spike = finite & (loss_spikes | norm_spikes)
        healthy = finite & ~spike
        # a bad step is written after the ring's end, where `drop` leaves it out
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
        # Over the whole ring: before it is full the result is thrown away below.
        mean = jnp.mean(recent)
        # a spread below a thousandth of the mean is rounding: nothing is a spike beside a constant
        spread = jnp.maximum(jnp.std(recent), 1e-3 * jnp.abs(mean))
        is_full = n_healthy >= self.window  # the zeros of a new ring are no losses
        return is_full & (x > mean + self.sigmas * spread)


STANDARD = Guard()


class Verdict(NamedTuple):
    """What the guard said of step `number`."""

    number: int
    streak: int  # bad steps in a row, this one the last
    finite: bool


def kept_if(healthy: Bool[Array, ""], new: Any, old: Any) -> Any:
    """The new tree, or the old one to the last bit; no host is asked."""
    # A select, not a product with 0 or 1: 0 times NaN is NaN.
    return jax.tree.map(lambda x, y: jnp.where(healthy, x, y), new, old)


def with_new_window(opt_state: Guarded) -> Guarded:
    """With a history that begins anew; the counts stay."""
    history = opt_state.history
    # products with 0, which keep type and layout
    cleared = history._replace(n_healthy=0 * history.n_healthy, streak=0 * history.streak)
    return opt_state._replace(history=cleared)


def counts(history: History) -> dict[str, tuple[Array, float]]:
    """The counts as metrics of a step."""
    by_name = {"skipped": history.n_skipped, "spikes": history.n_spikes, "streak": history.streak}
    # (sum, weight) as all metrics; the weight 1 makes the quotient the count itself.
    return {f"guard/{name}": (n, 1.0) for name, n in by_name.items()}
