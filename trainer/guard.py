"""When a run must stop, and which of its steps count: a loss or gradient that is no number, or far above
the last ones, changes nothing.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int
from pydantic import BaseModel, NonNegativeInt, PositiveFloat, PositiveInt


class History(NamedTuple):
    """Of the last healthy steps the losses and gradient norms, in a ring; of all steps the counts. Part of
    what resumes.
    """

    losses: Float[Array, " window"]
    norms: Float[Array, " window"]
    n_healthy: Int[Array, ""]
    n_skipped: Int[Array, ""]  # no number
    n_spikes: Int[Array, ""]
    streak: Int[Array, ""]  # bad steps behind one another, up to the last one


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
        update is left out like that of
            one that is no number; None = no such thing as a spike.
        patience: Bad steps in a row after which the run goes back to its newest checkpoint before them and
        leaves out their rows.
        max_rollbacks: Of a phase; one more ends it (exit code 4). 0 = never go back: bad steps are left out
        and training goes on.
        hang_s: A step that takes longer ends the process with all stacks written down (exit code 75); None
        = wait for ever.
        sdc_every: Steps between two searches for devices that compute wrongly without a word; 0 = never.
    """

    window: PositiveInt = 128
    sigmas: PositiveFloat | None = 6.0
    patience: PositiveInt = 8
    max_rollbacks: NonNegativeInt = 3
    hang_s: PositiveFloat | None = 600.0
    sdc_every: NonNegativeInt = 0

    def new_history(self) -> History:
        """Of no steps; every array is its own, since a step takes them all."""
        rings, numbers = (
            [jnp.zeros(self.window, jnp.float32) for _ in range(2)],
            [jnp.zeros((), jnp.int32) for _ in range(4)],
        )
        return History(*rings, *numbers)

    def judge(
        self, history: History, loss: Float[Array, ""], norm: Float[Array, ""]
    ) -> tuple[Bool[Array, ""], History]:
        """Whether a step is healthy, and the history with it."""
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        spike = finite & (
            self._beyond(history.losses, history.n_healthy, loss)
            | self._beyond(history.norms, history.n_healthy, norm)
        )
        healthy = finite & ~spike
        place = jnp.where(healthy, history.n_healthy % self.window, self.window)  # behind the ring: dropped
        return healthy, History(
            history.losses.at[place].set(loss, mode="drop"),
            history.norms.at[place].set(norm, mode="drop"),
            history.n_healthy + healthy,
            history.n_skipped + ~finite,
            history.n_spikes + spike,
            jnp.where(healthy, 0, history.streak + 1),
        )

    def _beyond(self, recent: Array, n: Array, x: Array) -> Array:
        """Whether x is a spike, which a ring that is not yet full cannot say."""
        if self.sigmas is None:
            return jnp.zeros((), bool)
        # a spread below a thousandth of the mean is rounding: nothing is a spike beside a constant
        spread = jnp.maximum(jnp.std(recent), 1e-3 * jnp.abs(jnp.mean(recent)))
        return (n >= self.window) & (x > jnp.mean(recent) + self.sigmas * spread)


STANDARD = Guard()


class Verdict(NamedTuple):
    """What the guard said of a step."""

    number: int
    streak: int  # bad steps behind one another, this one the last
    finite: bool


def kept_if(healthy: Bool[Array, ""], new: Any, old: Any) -> Any:
    """The new tree, or the old one to the last bit; no host is asked."""
    return jax.tree.map(lambda x, y: jnp.where(healthy, x, y), new, old)


def forgotten(opt_state: Guarded) -> Guarded:
    """With a history that begins anew; the counts stay."""
    history = opt_state.history
    return opt_state._replace(
        history=history._replace(n_healthy=0 * history.n_healthy, streak=0 * history.streak)
    )


def counts(history: History) -> dict[str, tuple[Array, float]]:
    """Metrics of a step."""
    found = {"skipped": history.n_skipped, "spikes": history.n_spikes, "streak": history.streak}
    return {f"guard/{name}": (n, 1.0) for name, n in found.items()}
