"""Laws of next-token prediction: a sum over targets, divided once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.api import ModelInputs
from tests.examples import (
    ONE_DEVICE,
    SIZES,
    batch_on,
    built,
    params_on,
    quick_jit,
    random_tokens,
    under,
)
from trainer.objectives.next_token import NextToken

BATCH = random_tokens(B=4, L=9)


@quick_jit
def loss_and_gradient(params, batch):
    def total(params):
        loss = NextToken().loss(
            {"policy": (built(), params)}, batch, NextToken().denominators(batch), jax.random.key(0)
        )
        return loss.total, loss

    return jax.value_and_grad(total, has_aux=True)(params)


def of(batch):
    with jax.set_mesh(under(ONE_DEVICE)):
        (_, loss), gradient = loss_and_gradient(
            params_on(under(ONE_DEVICE)), batch_on(under(ONE_DEVICE), batch)
        )
    return loss, gradient


@quick_jit
def plain_logits(params, tokens_BL, positions_BL, segments_BL):
    hidden_BLD = built().apply(params, ModelInputs(tokens_BL, positions_BL, segments_BL)).hidden_BLD
    return hidden_BLD @ built().unembed(params)[:, : SIZES.vocab_size]


def nll_and_correct() -> tuple[np.ndarray, np.ndarray]:
    with jax.set_mesh(under(ONE_DEVICE)):
        inputs = (BATCH.tokens_BL, BATCH.positions_BL, BATCH.segments_BL)
        logits_BLV = np.array(plain_logits(params_on(under(ONE_DEVICE)), *inputs), np.float64)
    shifted_BLV = logits_BLV - logits_BLV.max(-1, keepdims=True)
    logp_BLV = shifted_BLV - np.log(np.exp(shifted_BLV).sum(-1, keepdims=True))
    return -np.take_along_axis(logp_BLV, BATCH.targets_BL[..., None], -1)[
        ..., 0
    ], logits_BLV.argmax(-1) == BATCH.targets_BL


def test_the_loss_is_the_mean_over_all_targets_and_not_a_mean_of_row_means():
    loss, _ = of(BATCH)
    nll_BL, correct_BL = nll_and_correct()
    weight_BL = BATCH.weight_BL
    n_B = weight_BL.sum(-1)
    assert n_B.min() > 0 and len(set(n_B)) > 2
    np.testing.assert_allclose(loss.total, (nll_BL * weight_BL).sum() / n_B.sum(), rtol=1e-5)
    assert abs(loss.total - ((nll_BL * weight_BL).sum(-1) / n_B).mean()) > 1e-3
    np.testing.assert_allclose(
        loss.metrics["nll"], ((nll_BL * weight_BL).sum(), n_B.sum()), rtol=1e-5
    )
    np.testing.assert_allclose(
        loss.metrics["accuracy"], ((correct_BL * weight_BL).sum(), n_B.sum())
    )


def test_what_stands_at_weight_0_never_matters():
    off_BL = BATCH.weight_BL == 0
    padding_BL = BATCH.segments_BL == 0
    assert off_BL.sum() > padding_BL.sum() > 0
    changed = BATCH._replace(
        targets_BL=np.where(off_BL, 7, BATCH.targets_BL),
        tokens_BL=np.where(padding_BL, 9, BATCH.tokens_BL),
    )
    (loss, gradient), (other, other_gradient) = of(BATCH), of(changed)
    assert loss.total == other.total
    for (path, g), h in zip(
        jax.tree.leaves_with_path(gradient), jax.tree.leaves(other_gradient), strict=True
    ):
        np.testing.assert_allclose(g, h, rtol=1e-5, atol=1e-7, err_msg=str(path))


def test_weights_are_shares_of_a_target():
    (loss, gradient), (half, half_gradient) = (
        of(BATCH),
        of(BATCH._replace(weight_BL=BATCH.weight_BL / 4)),
    )
    np.testing.assert_allclose(loss.total, half.total, rtol=1e-6)
    np.testing.assert_allclose(half.metrics["nll"], np.array(loss.metrics["nll"]) / 4, rtol=1e-6)
    jax.tree.map(
        lambda g, h: np.testing.assert_allclose(g, h, rtol=1e-4, atol=1e-6), gradient, half_gradient
    )


def test_a_batch_without_targets_has_loss_0_and_gradient_0():
    loss, gradient = of(BATCH._replace(weight_BL=np.zeros_like(BATCH.weight_BL)))
    assert loss.total == 0 and all(total == weight == 0 for total, weight in loss.metrics.values())
    assert all(not np.any(np.array(g)) for g in jax.tree.leaves(gradient))


@pytest.mark.parametrize("row", [0, 3])
def test_denominators_come_from_the_data_alone(row):
    weight_BL = np.array(BATCH.weight_BL)
    weight_BL[row] = 0
    assert NextToken().denominators(BATCH._replace(weight_BL=jnp.array(weight_BL))) == {
        "targets": weight_BL.sum(),
        "tokens": (BATCH.segments_BL > 0).sum(),
    }
