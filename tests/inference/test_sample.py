"""Sampling rules against a plain numpy reference of the renormalised distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from inference.sample import Greedy, Sampler, exclude

LOGITS = [2.0, 1.0, 0.5, 0.0, -1.0, -3.0]


def distribution(sampler: Sampler, logits: list[float]) -> np.ndarray:
    return np.asarray(
        jax.nn.softmax(sampler.logits(jnp.array([logits], jnp.float32)), -1)[0], np.float64
    )


def reference(
    logits: list[float], *, temperature: float, top_k: int | None, top_p: float | None
) -> np.ndarray:
    """Token by token in plain Python: temperature, top-k, nucleus; equals share their fate."""
    scaled = np.array(logits, np.float64) / temperature
    probs = np.exp(scaled - scaled.max())
    if top_k is not None:
        probs[scaled < np.sort(scaled)[::-1][min(top_k, len(scaled)) - 1]] = 0
    probs /= probs.sum()
    if top_p is not None:
        probs = np.array([p if probs[probs > p].sum() < top_p else 0.0 for p in probs])
    return probs / probs.sum()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [  # values of transformers' logits warpers
        ({"temperature": 1.0}, [0.560893, 0.206341, 0.125152, 0.075909, 0.027925, 0.003779]),
        ({"temperature": 0.7}, [0.699811, 0.167710, 0.082101, 0.040192, 0.009632, 0.000553]),
        ({"temperature": 1.0, "top_k": 3}, [0.628532, 0.231224, 0.140244, 0, 0, 0]),
        ({"temperature": 1.0, "top_p": 0.8}, [0.628532, 0.231224, 0.140244, 0, 0, 0]),
        ({"temperature": 1.0, "top_p": 0.9}, [0.579259, 0.213097, 0.129250, 0.078394, 0, 0]),
        (
            {"temperature": 2.0, "top_p": 0.8},
            [0.408701, 0.247890, 0.193057, 0.150353, 0, 0],
        ),  # the other order: .481024 .291756 .227220
        ({"temperature": 1.0, "top_k": 3, "top_p": 0.8}, [0.731059, 0.268941, 0, 0, 0, 0]),
    ],
)
def test_distribution_is_that_of_hugging_face(settings, expected):
    np.testing.assert_allclose(distribution(Sampler(**settings), LOGITS), expected, atol=1e-6)


@settings(max_examples=60)
@given(
    logits=st.lists(st.integers(-8, 8).map(lambda n: n / 2), min_size=7, max_size=7),
    temperature=st.sampled_from([0.5, 1.0, 2.0]),
    top_k=st.one_of(st.none(), st.integers(1, 9)),
    top_p=st.one_of(st.none(), st.sampled_from([0.05, 0.31, 0.617, 0.93])),
)
def test_distribution_is_that_of_the_plain_reference(logits, temperature, top_k, top_p):
    sampler = Sampler(temperature=temperature, top_k=top_k, top_p=top_p)
    expected = reference(logits, temperature=temperature, top_k=top_k, top_p=top_p)
    np.testing.assert_allclose(distribution(sampler, logits), expected, atol=2e-6)


def test_equal_logits_stay_or_go_together():
    np.testing.assert_allclose(
        distribution(Sampler(temperature=1.0, top_k=2), [1, 1, 1, 0]),
        [1 / 3, 1 / 3, 1 / 3, 0],
        atol=1e-6,
    )
    np.testing.assert_allclose(
        distribution(Sampler(temperature=1.0, top_p=0.4), [1, 1, 1, 0]),
        [1 / 3, 1 / 3, 1 / 3, 0],
        atol=1e-6,
    )


@pytest.mark.parametrize("V", [9, 50_000])
def test_a_nucleus_of_the_whole_mass_keeps_every_token(V):
    logits_BV = jax.random.normal(jax.random.key(0), (2, V))
    kept_BV = Sampler(temperature=1.0, top_p=1.0).logits(logits_BV)
    np.testing.assert_array_equal(kept_BV, logits_BV)


def test_the_smallest_nucleus_and_a_top_k_of_one_are_greedy():
    logits_BV = jax.random.normal(jax.random.key(0), (5, 11))
    chosen_B = Greedy().sample(jax.random.split(jax.random.key(1), 5), logits_BV)
    for sampler in (
        Sampler(temperature=1.0, top_k=1),
        Sampler(temperature=3.0, top_p=1e-6),
        Greedy(),
    ):
        np.testing.assert_array_equal(jnp.argmax(sampler.logits(logits_BV), -1), chosen_B)
        assert int(jnp.sum(jnp.isfinite(sampler.logits(logits_BV)))) == 5


def test_samples_follow_the_distribution():
    sampler, n = Sampler(temperature=0.7, top_k=4), 20_000
    tokens_B = sampler.sample(
        jax.random.split(jax.random.key(3), n), jnp.tile(jnp.array(LOGITS), (n, 1))
    )
    expected = reference(LOGITS, temperature=0.7, top_k=4, top_p=None)
    np.testing.assert_allclose(
        np.bincount(tokens_B, minlength=6) / n, expected, atol=5 * (0.25 / n) ** 0.5
    )


def test_a_row_is_sampled_by_its_own_key_whatever_its_neighbours():
    logits_BV, keys_B = (
        jax.random.normal(jax.random.key(0), (4, 30)),
        jax.random.split(jax.random.key(1), 4),
    )
    sampler = Sampler(temperature=2.0)
    together_B = sampler.sample(keys_B, logits_BV)
    alone = [int(sampler.sample(keys_B[i : i + 1], logits_BV[i : i + 1])[0]) for i in range(4)]
    assert together_B.tolist() == alone
    assert sampler.sample(keys_B[::-1], logits_BV[::-1]).tolist() == alone[::-1]


def test_excluded_tokens_have_no_mass_and_the_others_share_it():
    logits_BV = exclude(jnp.array([LOGITS]), jnp.array([False, True, True, False, True, True]))
    shown_V = np.asarray(jax.nn.softmax(Sampler(temperature=1.0, top_k=2).logits(logits_BV), -1)[0])
    first, second = reference([1.0, 0.5], temperature=1.0, top_k=None, top_p=None)
    np.testing.assert_allclose(shown_V, [0, first, second, 0, 0, 0], atol=1e-6)
    assert Greedy().sample(jax.random.split(jax.random.key(0), 1), logits_BV).tolist() == [1]


@pytest.mark.parametrize(
    ("settings", "field", "remedy"),
    [
        ({"temperature": 0.0}, "temperature", "use Greedy"),
        ({"temperature": -1.0}, "temperature", "above 0"),
        ({"temperature": float("nan")}, "temperature", "finite"),
        ({"temperature": 1.0, "top_k": 0}, "top_k", "at least 1"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p", "above 0"),
        ({"temperature": 1.0, "top_p": 1.1}, "top_p", "at most 1"),
    ],
)
def test_a_wrong_value_is_refused_with_its_rule(settings, field, remedy):
    with pytest.raises(ValidationError) as refused:
        Sampler(**settings)
    (error,) = refused.value.errors()
    assert error["loc"] == (field,)
    assert remedy in error["msg"]


def test_a_temperature_has_no_default():
    with pytest.raises(ValidationError, match="temperature"):
        Sampler()
