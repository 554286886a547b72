"""Laws of direct preference optimisation, with numbers computed by hand and in the paper's symmetries."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline.batch import PreferenceBatch
from model.api import Model, ModelOutputs
from tests.examples import (
    ONE_DEVICE,
    batch_on,
    built,
    params_on,
    preference_batch,
    quick_jit,
    random_documents,
    referenced_pairs,
    under,
    with_reference,
)
from trainer.objectives.dpo import DPO, ReferencedPairs

BATCH = referenced_pairs(B=4, L=24, P=3)


@quick_jit
def reference_of(params, batch):
    return DPO(beta=0.1).columns({"policy": (built(), params)}, batch)


@quick_jit
def loss_and_gradient(params, batch):
    def total(params):
        loss = DPO(beta=0.1).loss(
            {"policy": (built(), params)},
            batch,
            DPO(beta=0.1).denominators(batch),
            jax.random.key(0),
        )
        return loss.total, loss

    return jax.value_and_grad(total, has_aux=True)(params)


def of(batch):
    with jax.set_mesh(under(ONE_DEVICE)):
        (_, loss), gradient = loss_and_gradient(
            params_on(under(ONE_DEVICE)), batch_on(under(ONE_DEVICE), batch)
        )
    return loss, gradient


def referenced(batch):
    """The batch with the policy itself as its reference."""
    pairs = PreferenceBatch(*batch[: len(PreferenceBatch._fields)])
    with jax.set_mesh(under(ONE_DEVICE)):
        columns = reference_of(params_on(under(ONE_DEVICE)), batch_on(under(ONE_DEVICE), pairs))
    return ReferencedPairs(*pairs, **{name: np.array(x_BP) for name, x_BP in columns.items()})


def means(loss):
    return {name: float(total / weight) for name, (total, weight) in loss.metrics.items()}


def answering(logp_BL) -> Model:
    """A model whose log-probability of token 0 is given: hidden states [log(p / (1 - p)), 0] read out by
    the identity.
    """

    def apply(params, inputs):
        p_BL = jnp.exp(jnp.array(logp_BL, jnp.float32))
        return ModelOutputs(jnp.stack([jnp.log(p_BL) - jnp.log1p(-p_BL), jnp.zeros_like(p_BL)], -1))

    return Model(
        init=None,
        apply=apply,
        unembed=lambda params: jnp.eye(2),
        decode=None,
        empty_cache=None,
        vocab_size=2,
    )


def test_the_loss_of_given_log_probabilities_is_the_closed_form():
    pair = ([0, 0, 0], [0, 0, 0, 0, 0], 1)  # answers of 2 and 4 tokens
    batch = with_reference(preference_batch([[pair]], L=6, P=1), [[[-11.0]], [[-13.0]]])
    policy = answering([[-4.0, -6.0, -1.0, -2.0, -5.0, -6.0]])
    with jax.set_mesh(under(ONE_DEVICE)):
        batch, dpo = batch_on(under(ONE_DEVICE), batch), DPO(beta=0.1)
        loss = dpo.loss({"policy": (policy, {})}, batch, dpo.denominators(batch), jax.random.key(0))
    found = means(loss)
    assert abs(float(loss.total) - 0.598139) < 1e-6  # -log sigmoid(0.2), as TRL gives it
    expected = {
        "dpo_loss": 0.598139,
        "rewards/chosen": 0.1,
        "rewards/rejected": -0.1,
        "rewards/margins": 0.2,
        "rewards/accuracies": 1,
    }
    expected |= {
        "logps/chosen": -10.0,
        "logps/rejected": -14.0,
        "ranking_accuracy": 0,
    }  # a token: -5 against -3.5
    assert found.keys() == expected.keys()
    assert all(abs(found[name] - expected[name]) < 1e-5 for name in expected), found


def loss_of_given(logp_BL, batch, dpo):
    """The loss where the policy gives these log-probabilities."""
    policies = {"policy": (answering(logp_BL), {})}
    with jax.set_mesh(under(ONE_DEVICE)):
        batch = batch_on(under(ONE_DEVICE), batch)
        return dpo.loss(policies, batch, dpo.denominators(batch), jax.random.key(0))


def test_the_likelihood_term_is_the_mean_over_the_tokens_of_all_chosen_answers():
    first = ([0, 0, 0], [0, 0, 0, 0, 0], 1)  # answers of 2 and 4 tokens
    second = ([0, 0, 0, 0], [0, 0], 1)  # of 3 and 1
    pairs = preference_batch([[first], [second]], L=6, P=1)
    batch = with_reference(pairs, [[[-11.0], [-6.0]], [[-13.0], [-1.0]]])
    logp_BL = np.array([[-4, -6, -1, -2, -5, -6], [-2, -1, -4, -0.5, -9, -9]], np.float64)
    margins = 0.1 * np.array([(-10 + 11) - (-14 + 13), (-7 + 6) - (-0.5 + 1)])
    dpo_loss = np.mean(np.log1p(np.exp(-margins)))
    nll = (4 + 6 + 2 + 1 + 4) / (2 + 3)
    for weight in (0.0, 0.5, 2.0):
        loss = loss_of_given(logp_BL, batch, DPO(beta=0.1, sft_weight=weight))
        np.testing.assert_allclose(loss.total, dpo_loss + weight * nll, rtol=1e-5)
        assert ("sft_loss" in loss.metrics) == (weight > 0)
    np.testing.assert_allclose(means(loss)["sft_loss"], nll, rtol=1e-5)


def test_the_likelihood_term_ignores_pairs_without_weight():
    pair = ([0, 0, 0], [0, 0, 0], 1)
    batch = with_reference(preference_batch([[pair], [pair]], L=4, P=1), np.zeros((2, 2, 1)))
    batch = batch._replace(pair_weight_BP=np.array([[1], [0]], np.float32))
    loss = loss_of_given([[-1.5] * 4, [-4.0] * 4], batch, DPO(beta=0.1, sft_weight=1.0))
    np.testing.assert_allclose(means(loss)["sft_loss"], 1.5, rtol=1e-5)
    np.testing.assert_allclose(loss.total, means(loss)["dpo_loss"] + 1.5, rtol=1e-5)


def test_with_itself_as_reference_the_loss_is_ln_2_and_margins_are_0():
    loss, _ = of(referenced(BATCH))
    assert abs(float(loss.total) - math.log(2)) < 1e-6
    assert (
        abs(means(loss)["rewards/margins"]) < 1e-6
    )  # a gradient's forward pass may add in another order


def test_accuracies_are_strict_so_margins_of_exactly_0_are_no_success():
    logp_BL = [[-1.5, -2.0, -0.5, -4.0]]
    pairs, dpo = preference_batch([[([0, 0, 0], [0, 0, 0], 1)]], L=4, P=1), DPO(beta=0.1)
    with jax.set_mesh(under(ONE_DEVICE)):
        columns = dpo.columns(
            {"policy": (answering(logp_BL), {})}, batch_on(under(ONE_DEVICE), pairs)
        )
    batch = ReferencedPairs(*pairs, **{name: np.array(x_BP) for name, x_BP in columns.items()})
    found = means(loss_of_given(logp_BL, batch, dpo))
    assert found["rewards/margins"] == 0 and found["rewards/accuracies"] == 0


def test_the_first_gradient_raises_the_chosen_answers_and_lowers_the_rejected_ones():
    batch = referenced(BATCH)
    _, gradient = of(batch)
    with jax.set_mesh(under(ONE_DEVICE)):
        nearer = jax.tree.map(lambda p, g: p - 0.05 * g, params_on(under(ONE_DEVICE)), gradient)
        (total, loss), _ = loss_and_gradient(nearer, batch_on(under(ONE_DEVICE), batch))
    assert total < math.log(2) and means(loss)["rewards/margins"] > 0


def test_exchanging_chosen_and_rejected_exchanges_rewards_and_negates_margins():
    segments_BL = BATCH.segments_BL
    exchanged = BATCH._replace(
        segments_BL=np.where(
            segments_BL > 0, segments_BL + np.where(segments_BL % 2, 1, -1), 0
        ).astype(np.int32),
        reference_chosen_BP=BATCH.reference_rejected_BP,
        reference_rejected_BP=BATCH.reference_chosen_BP,
    )
    one, other = means(of(BATCH)[0]), means(of(exchanged)[0])
    for here, there, sign in (
        ("rewards/chosen", "rewards/rejected", 1),
        ("logps/rejected", "logps/chosen", 1),
        ("rewards/margins",) * 2 + (-1,),
    ):
        np.testing.assert_allclose(one[here], sign * other[there], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(one["rewards/accuracies"] + other["rewards/accuracies"], 1)


def test_pair_slots_without_weight_are_ignored_whatever_stands_in_them():
    free_BP = BATCH.pair_weight_BP == 0
    assert free_BP.any()
    junk = BATCH._replace(
        reference_chosen_BP=np.where(free_BP, 1e6, BATCH.reference_chosen_BP).astype(np.float32),
        reference_rejected_BP=np.where(free_BP, -1e6, BATCH.reference_rejected_BP).astype(
            np.float32
        ),
    )
    (loss, gradient), (other, other_gradient) = of(BATCH), of(junk)
    assert loss.total == other.total and means(loss) == means(other)
    jax.tree.map(np.testing.assert_array_equal, gradient, other_gradient)


def test_a_pair_without_weight_counts_neither_in_the_loss_nor_in_its_denominator():
    weight_BP = np.array(BATCH.pair_weight_BP)
    weight_BP[1:] = 0  # row 0 holds one pair
    alone = of(BATCH._replace(pair_weight_BP=weight_BP))[0]
    assert weight_BP.sum() == 1 and float(alone.metrics["dpo_loss"][1]) == 1
    np.testing.assert_allclose(alone.total, alone.metrics["dpo_loss"][0], rtol=1e-6)
    total, n = of(BATCH)[0].metrics["dpo_loss"]
    np.testing.assert_allclose(of(BATCH)[0].total, total / n, rtol=1e-6)
    assert float(n) == BATCH.pair_weight_BP.sum() == 7


def test_log_probabilities_of_packed_pairs_are_those_of_the_pairs_alone():
    rng = np.random.default_rng(0)
    pairs = []
    for lengths in ((2, 3, 1), (1, 2, 3), (2, 1, 1)):
        prompt, chosen, rejected = random_documents(rng, lengths)
        pairs.append((prompt + chosen, prompt + rejected, len(prompt)))
    packed = referenced(preference_batch([pairs, pairs[:1], pairs[1:2], pairs[2:]], L=24, P=3))
    for alone, slot in ((1, 0), (2, 1), (3, 2)):
        for column_BP in (packed.reference_chosen_BP, packed.reference_rejected_BP):
            np.testing.assert_allclose(column_BP[0, slot], column_BP[alone, 0], rtol=1e-5)
    assert len({float(x) for x in packed.reference_chosen_BP[0]}) == 3


def test_log_probabilities_are_added_and_not_multiplied_as_matrices():
    """An accelerator rounds the float32 factors of a product (bfloat16 on TPUs), which a sum of hundreds of
    nats would show.
    """
    with jax.set_mesh(under(ONE_DEVICE)):
        batch = batch_on(under(ONE_DEVICE), preference_batch([[([0, 0], [0, 0, 0], 1)]], L=3, P=1))
        jaxpr = jax.make_jaxpr(
            lambda batch: DPO(beta=0.1).columns(
                {"policy": (answering([[-1.0, -2.0, -3.0]]), {})}, batch
            )
        )(batch)
    assert str(jaxpr).count("= dot_general[") == 1  # the logits


def test_prompt_tokens_are_no_part_of_an_answer():
    with_prompt = referenced(BATCH._replace(weight_BL=(BATCH.segments_BL > 0).astype(np.float32)))
    assert (with_prompt.reference_chosen_BP < referenced(BATCH).reference_chosen_BP)[
        BATCH.pair_weight_BP > 0
    ].all()
