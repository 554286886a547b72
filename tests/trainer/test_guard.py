"""The guard: a bad step changes nothing, and excuses no other."""

import math
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.adapt import Full
from tests.examples import (
    MESHES,
    ONE_DEVICE,
    at_rest_on,
    batch_on,
    built,
    host_params,
    quick_jit,
    random_tokens,
    under,
)
from trainer.guard import Guard, with_new_window
from trainer.objectives.next_token import NextToken
from trainer.optimizer import Optimizer
from trainer.optimizers.adamw import AdamW
from trainer.schedules import WarmupCosine
from trainer.state import TrainState, new_state
from trainer.step import make_step

NAN, INF = math.nan, math.inf
TX = Optimizer(
    rule=AdamW(),
    peak_lr=1e-2,
    schedule=WarmupCosine(warmup_steps=0, end_frac=0.1),
    weight_decay=0.1,
).chain(10)


def verdicts(guard: Guard, losses: list[float], norms: list[float] | None = None) -> list[bool]:
    """Whether each step is healthy."""
    history, judge, found = guard.new_history(), jax.jit(guard.judge), []
    for loss, norm in zip(losses, norms or [1.0] * len(losses), strict=True):
        healthy, history = judge(history, jnp.float32(loss), jnp.float32(norm))
        found.append(bool(healthy))
    assert int(history.n_healthy) == sum(found) and int(
        history.n_skipped + history.n_spikes
    ) == len(found) - sum(found)
    return found


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("window", [4, 16])
def test_one_value_that_is_no_number_is_exactly_one_bad_step(bad, window):
    losses = list(np.random.default_rng(0).normal(3, 0.1, 60))
    at = 2 * window + 3
    assert [
        i
        for i, ok in enumerate(verdicts(Guard(window=window), [*losses[:at], bad, *losses[at:]]))
        if not ok
    ] == [at]
    norms = [*losses[:at], bad, *losses[at:]]
    assert [
        i for i, ok in enumerate(verdicts(Guard(window=window), [2.0] * 61, norms)) if not ok
    ] == [at]


def test_a_spike_is_bad_and_does_not_hide_the_next_one():
    rng = np.random.default_rng(1)
    losses = list(rng.normal(3, 0.1, 80))
    losses[50:54] = [9.0, 8.0, 9.5, 5.0]
    assert [i for i, ok in enumerate(verdicts(Guard(window=32), losses)) if not ok] == [
        50,
        51,
        52,
        53,
    ]
    assert all(verdicts(Guard(window=32, sigmas=None), losses))


def test_no_spike_before_the_window_is_full_none_downwards_and_none_beside_a_constant():
    assert all(verdicts(Guard(window=8), [1.0, 1.1, 50.0, 1.0, 1.1, 1.0, 1.1]))
    assert all(verdicts(Guard(window=8), [5.0 + 0.01 * (i % 3) for i in range(20)] + [1.0]))
    assert all(verdicts(Guard(window=8), [2.0] * 20 + [2.0001]))


def test_a_history_that_is_with_new_window_finds_nothing_strange_but_still_counts():
    guard = Guard(window=4)
    with jax.set_mesh(under(ONE_DEVICE)):
        state = new_state(built(), Full(), TX, jax.random.key(0), guard=guard)
    history = state.opt_state.history
    for loss in (3.0, 3.1, 3.0, 3.1, 9.0):
        healthy, history = guard.judge(history, jnp.float32(loss), jnp.float32(1.0))
    assert not healthy and int(history.streak) == 1
    history = with_new_window(state.opt_state._replace(history=history)).history
    healthy, history = guard.judge(history, jnp.float32(9.0), jnp.float32(1.0))
    assert healthy and int(history.n_spikes) == 1 and int(history.streak) == 0


@cache
def trained(
    poisoned: tuple[int, ...], seeds: tuple[int, ...], sizes: int | None = None
) -> TrainState:
    """Steps over the batches of `seeds`; those at the places `poisoned` have an infinite weight on one
    target.
    """
    mesh = under(ONE_DEVICE if sizes is None else MESHES[sizes])
    with jax.set_mesh(mesh):
        state = new_state(built(), Full(), TX, jax.random.key(0), at_rest_on(mesh, host_params()))
        step = quick_jit(make_step({"policy": built()}, NextToken(), Full(), TX, micro_batches=2))
        for i, seed in enumerate(seeds):
            batch = random_tokens(B=16, L=10, seed=seed)
            if i in poisoned:
                batch.weight_BL[3, 1] = np.inf
            state, _ = step(state, batch_on(mesh, batch))
    return state


@pytest.mark.parametrize("sizes", [None, 1])
def test_a_poisoned_batch_leaves_everything_as_if_it_had_never_come(sizes):
    state, expected = trained((1,), (0, 1, 2), sizes), trained((), (0, 2), sizes)
    ours, theirs = ((each.trainable, each.opt_state.inner) for each in (state, expected))
    for (path, x), y in zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
        assert np.array(x).tobytes() == np.array(y).tobytes(), path
    assert (
        int(state.step) == 3
        and int(state.opt_state.history.n_skipped) == 1
        and int(state.opt_state.history.streak) == 0
    )
