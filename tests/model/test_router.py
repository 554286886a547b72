"""Laws of routing: what is chosen, how it is weighed, what an uneven load costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.layers.router import Router, as_scored, move_bias, renormalised
from tests.examples import ONE_DEVICE, under

M, E = 7, 12
MIXTRAL = Router(top_k=3, score=jax.nn.softmax, weigh=renormalised, balance_loss=0.02, z_loss=0.001)
QWEN = Router(top_k=3, score=jax.nn.softmax, weigh=as_scored, balance_loss=0.02, z_loss=0.0)
DEEPSEEK = Router(
    top_k=4,
    score=jax.nn.sigmoid,
    weigh=renormalised,
    balance_loss=0.0,
    z_loss=0.0,
    n_groups=4,
    top_groups=2,
    scale=2.5,
    bias_rate=0.001,
)
NO_BIAS_E = jnp.zeros(E)


def logits(seed: int = 0, n: int = M) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2, (n, E)).astype(np.float32)


def softmax(x_E: np.ndarray) -> np.ndarray:
    return np.exp(x_E) / np.exp(x_E).sum()


def best(scores: np.ndarray, k: int) -> list[int]:
    """Indices of the k largest; of equal ones the first."""
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:k]


def weights_by_expert(routes, m: int) -> dict[int, float]:
    return dict(zip(routes.experts_MS[m].tolist(), routes.weights_MS[m].tolist(), strict=True))


def test_renormalised_weights_are_the_softmax_over_the_chosen():
    routes = MIXTRAL.route(jnp.asarray(logits()), NO_BIAS_E)
    for m, x_E in enumerate(logits().astype(np.float64)):
        chosen = best(x_E, 3)
        assert routes.experts_MS[m].tolist() == chosen
        np.testing.assert_allclose(routes.weights_MS[m], softmax(x_E[chosen]), rtol=1e-6)
        np.testing.assert_allclose(routes.shares_ME[m], softmax(x_E), rtol=1e-6)


def test_weights_as_scored_are_those_of_the_softmax_over_all():
    routes = QWEN.route(jnp.asarray(logits()), NO_BIAS_E)
    for m, x_E in enumerate(logits().astype(np.float64)):
        np.testing.assert_allclose(routes.weights_MS[m], softmax(x_E)[best(x_E, 3)], rtol=1e-6)


def test_experts_come_from_the_best_groups_chosen_with_the_bias_and_weighed_without():
    bias_E = np.random.default_rng(1).normal(0, 0.3, E).astype(np.float32)
    routes = DEEPSEEK.route(jnp.asarray(logits()), jnp.asarray(bias_E))
    differs = False
    for m, x_E in enumerate(logits().astype(np.float64)):
        scores_E = 1 / (1 + np.exp(-x_E))
        biased_E = scores_E + bias_E
        groups = best(np.array([np.sort(group)[-2:].sum() for group in biased_E.reshape(4, 3)]), 2)
        chosen = best(np.where(np.isin(np.arange(E) // 3, groups), biased_E, -np.inf), 4)
        weights = 2.5 * scores_E[chosen] / scores_E[chosen].sum()
        assert routes.experts_MS[m].tolist() == chosen
        np.testing.assert_allclose(routes.weights_MS[m], weights, rtol=1e-6)
        np.testing.assert_allclose(routes.shares_ME[m], scores_E / scores_E.sum(), rtol=1e-6)
        differs |= set(chosen) != set(best(scores_E, 4))
    assert differs  # else neither groups nor bias were tested


def test_of_equal_scores_the_first_expert_is_chosen():
    assert MIXTRAL.route(jnp.zeros((2, E)), NO_BIAS_E).experts_MS.tolist() == [[0, 1, 2]] * 2
    # all groups are worth the same, so the experts of the first two are eligible
    assert DEEPSEEK.route(jnp.zeros((1, E)), NO_BIAS_E).experts_MS.tolist() == [[0, 1, 2, 3]]


def test_the_choice_of_a_token_does_not_depend_on_the_others():
    x_ME, bias_E = jnp.asarray(logits()), jnp.linspace(-0.1, 0.1, E)
    together, alone = DEEPSEEK.route(x_ME, bias_E), DEEPSEEK.route(x_ME[4:5], bias_E)
    assert weights_by_expert(together, 4) == weights_by_expert(alone, 0)


def test_a_bias_chooses_but_gets_no_gradient():
    bias_E = jnp.zeros(E).at[5].set(9.0)
    router = Router(
        top_k=1, score=jax.nn.softmax, weigh=as_scored, balance_loss=0.0, z_loss=0.0, bias_rate=0.0
    )
    routes = router.route(jnp.asarray(logits()), bias_E)
    assert set(routes.experts_MS[:, 0].tolist()) == {5}
    np.testing.assert_allclose(
        routes.weights_MS[:, 0], [softmax(x_E)[5] for x_E in logits()], rtol=1e-6
    )
    gradient = jax.grad(
        lambda bias_E: jnp.sum(jnp.sin(DEEPSEEK.route(jnp.asarray(logits()), bias_E).weights_MS))
    )(bias_E)
    assert not np.any(gradient)


def test_the_penalty_is_that_of_switch_and_of_st_moe_over_the_real_tokens():
    real_M = np.array([1, 1, 0, 1, 1, 0, 1], bool)
    x_ME = jnp.asarray(logits())
    routes = MIXTRAL.route(x_ME, NO_BIAS_E)
    balance = MIXTRAL.balance(x_ME, routes, jnp.asarray(real_M), ())
    real = logits().astype(np.float64)[real_M]
    f_E = np.zeros(E)
    for x_E in real:
        f_E[best(x_E, 3)] += 1 / len(real)
    p_E = np.mean([softmax(x_E) for x_E in real], 0)
    z = np.sum(np.log(np.exp(real).sum(1)) ** 2)
    np.testing.assert_allclose(
        balance.penalty, len(real) * 0.02 * E * (f_E * p_E).sum() + 0.001 * z, rtol=1e-6
    )
    np.testing.assert_allclose(balance.load_E, f_E * len(real), rtol=1e-6)


def test_padding_changes_neither_penalty_nor_load_nor_their_gradients():
    def penalty(x_ME, real_M):
        balance = MIXTRAL.balance(x_ME, MIXTRAL.route(x_ME, NO_BIAS_E), real_M, ())
        return balance.penalty, balance.load_E

    one = jax.value_and_grad(penalty, has_aux=True)
    (alone, load_E), gradient_ME = one(jnp.asarray(logits()), jnp.ones(M, bool))
    padded_ME = jnp.asarray(np.concatenate([logits(), logits(seed=3, n=5) * 50]))
    (padded, padded_load_E), padded_gradient_ME = one(padded_ME, jnp.arange(M + 5) < M)
    np.testing.assert_allclose(padded, alone, rtol=1e-6)
    np.testing.assert_array_equal(padded_load_E, load_E)
    np.testing.assert_allclose(padded_gradient_ME[:M], gradient_ME, rtol=1e-5, atol=1e-8)
    assert not np.any(padded_gradient_ME[M:])


def test_rows_of_padding_alone_cost_nothing():
    x_ME = jnp.asarray(logits())
    balance = MIXTRAL.balance(x_ME, MIXTRAL.route(x_ME, NO_BIAS_E), jnp.zeros(M, bool), ())
    assert float(balance.penalty) == 0 and not np.any(balance.load_E)


@pytest.mark.parametrize("layers", [(), (2,)])
def test_the_bias_moves_towards_an_even_load(layers):
    load = jnp.broadcast_to(jnp.asarray([4.0, 9.0, 5.0, 2.0]), (*layers, 4))
    with jax.set_mesh(under(ONE_DEVICE)):
        moved = move_bias(jnp.full((*layers, 4), 0.5), load, rate=0.01)
    np.testing.assert_allclose(
        moved, np.broadcast_to([0.51, 0.49, 0.5, 0.51], (*layers, 4)), rtol=1e-6
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"top_groups": 5}, "top_groups=5 is not between 1 and n_groups=4"),
        ({"n_groups": 5}, "n_groups=5 does not cut 12 experts"),
        ({"n_groups": 12, "top_groups": 2}, "equal groups of at least 2"),
        ({"top_k": 7}, "top_k=7 is not between 1 and the 6 experts of 2 groups"),
        ({"top_k": 0}, "top_k=0"),
    ],
)
def test_a_router_that_cannot_choose_is_refused(change, says):
    fields = {name: getattr(DEEPSEEK, name) for name in DEEPSEEK.__dataclass_fields__}
    with pytest.raises(ValueError, match=says):
        Router(**{**fields, **change}).check(E)
