"""Laws of reward models, with numbers computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from optax import adam

from model.adapt import Full
from model.api import Model, ModelOutputs
from tests.examples import (
    ONE_DEVICE,
    SIZES,
    batch_on,
    built,
    preference_batch,
    quick_jit,
    random_documents,
    under,
)
from trainer.heads import TrainedHeads, with_heads
from trainer.objectives.reward import Reward
from trainer.state import new_state
from trainer.step import make_step


def rewarding(reward_BL) -> Model:
    """A model whose hidden state, read by reward_D = [1, 0], is a given reward."""

    def apply(params, inputs):
        reward = jnp.array(reward_BL, jnp.float32)
        return ModelOutputs(jnp.stack([reward, jnp.ones_like(reward)], -1))

    return Model(init=None, apply=apply, unembed=None, decode=None, empty_cache=None, vocab_size=2)


def loss_of(reward: Reward, reward_BL, batch):
    params = {"reward_D": jnp.array([1.0, 0.0])}
    with jax.set_mesh(under(ONE_DEVICE)):
        batch = batch_on(under(ONE_DEVICE), batch)
        denominators = reward.denominators(batch)
        loss = reward.loss(
            {"policy": (rewarding(reward_BL), params)}, batch, denominators, jax.random.key(0)
        )
    return float(loss.total), {name: float(x / n) for name, (x, n) in loss.metrics.items()}


# prompt of 1 token, answers of 2 and 4; positions 0 and 1 are of the chosen one, 2 to 5 of the rejected one
PAIR = ([0, 0, 0], [0, 0, 0, 0, 0], 1)


@pytest.mark.parametrize(
    ("coefficient", "total"), [(0.0, 0.2410082), (0.01, 0.2410082 + 0.01 * 1.7**2)]
)
def test_the_loss_of_given_rewards_is_the_closed_form(coefficient, total):
    """-log sigmoid(1.5 - 0.2), and TRL's centering term."""
    batch = preference_batch([[PAIR]], L=7, P=1)
    found, means = loss_of(
        Reward(center_rewards_coefficient=coefficient), [[9.0, 1.5, 8.0, 7.0, 6.0, 0.2, 5.0]], batch
    )
    assert abs(found - total) < 1e-6
    expected = {"reward_loss": 0.2410082, "accuracy": 1, "margin": 1.3}
    expected |= {"rewards/chosen": 1.5, "rewards/rejected": 0.2}
    assert all(abs(means[name] - x) < 1e-6 for name, x in expected.items()), means


def test_the_reward_is_read_at_the_last_position_of_each_answer_and_free_slots_do_not_count():
    rows = [[PAIR, PAIR], [PAIR]]
    batch = preference_batch(rows, L=14, P=3)
    rng = np.random.default_rng(0)
    reward_BL = rng.normal(size=(2, 14))
    ends = [(0, 1, 5), (0, 7, 11), (1, 1, 5)]
    margins = np.array([reward_BL[b, c] - reward_BL[b, r] for b, c, r in ends])
    total, means = loss_of(Reward(), reward_BL, batch)
    np.testing.assert_allclose(total, np.mean(np.log1p(np.exp(-margins))), rtol=1e-5)
    np.testing.assert_allclose(means["margin"], margins.mean(), rtol=1e-5)


def rows_of_pairs():
    """Answers of two tokens or more: the last one closes an answer and is not read."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(4):
        prompt, *answers = random_documents(rng, (2, 3, 2, 2, 4))
        sides = [prompt + answer for answer in answers]
        rows.append([(*sides[:2], 2), (*sides[2:], 2)])
    return rows


def test_a_reward_model_learns_which_answers_are_preferred():
    """Of pairs that the untrained model does not tell apart all come out right."""
    reward = Reward()
    model = with_heads(built(), reward.heads, width=SIZES.width, dtype="float32")
    adaptation = TrainedHeads(Full(), reward.heads)
    tx = adam(1e-2)
    with jax.set_mesh(under(ONE_DEVICE)):
        state = quick_jit(lambda key: new_state(model, adaptation, tx, key))(jax.random.key(0))
        head_D = np.array(state.trainable["reward_D"])
        step = quick_jit(make_step({"policy": model}, reward, adaptation, tx, micro_batches=2))
        batch = batch_on(under(ONE_DEVICE), preference_batch(rows_of_pairs(), L=24, P=2))
        rows = []
        for _ in range(30):
            state, metrics = step(state, batch)
            rows.append({name: float(x / n) for name, (x, n) in metrics.items() if name != "watch"})
    assert rows[0]["accuracy"] < 1 and rows[-1]["accuracy"] == 1
    assert rows[-1]["reward_loss"] < 0.1 * rows[0]["reward_loss"]
    assert (np.array(state.trainable["reward_D"]) != head_D).all()
