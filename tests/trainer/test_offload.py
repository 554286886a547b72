"""Laws of offloading: what rests on the host changes where arrays lie, and no number."""

from functools import cache, partial
from itertools import pairwise
from typing import Any

import jax
import numpy as np
import pytest

from model.adapt import Full
from model.execution import DEFAULT, KEPT, Execution, Precision, Remat
from tests.examples import SIZES, batch_on, quick_jit, random_tokens, under
from trainer.checkpoints.load import placed
from trainer.objectives.next_token import NextToken
from trainer.offload import at_rest, placed_at_rest
from trainer.optimizer import Optimizer
from trainer.optimizers.adamw import AdamW
from trainer.schedules import WarmupCosine
from trainer.state import TrainState, new_state
from trainer.step import make_step

TX = Optimizer(
    rule=AdamW(),
    peak_lr=1e-2,
    schedule=WarmupCosine(warmup_steps=0, end_frac=0.1),
    weight_decay=0.1,
).chain(10)
MESH = {"fsdp": 4, "tensor": 2}


@cache
def after(
    n_steps: int, offload: tuple[str, ...], remat: Remat = DEFAULT.remat
) -> tuple[TrainState, dict[str, Any]]:
    """The state and metrics of the last of some steps."""
    model = SIZES.build(Precision(compute="float32"), Execution(remat=remat))
    mesh = under(MESH)
    with jax.set_mesh(mesh):
        born = partial(new_state, model, Full(), TX)
        state = quick_jit(lambda key: at_rest(born(key), offload))(jax.random.key(0))
        step = quick_jit(
            make_step({"policy": model}, NextToken(), Full(), TX, micro_batches=2, offload=offload),
            donate_argnums=0,
        )
        for seed in range(n_steps):
            state, metrics = step(state, batch_on(mesh, random_tokens(B=16, L=8, seed=seed)))
    return state, metrics


def kinds(tree: Any) -> set[str]:
    return {x.sharding.memory_kind for x in jax.tree.leaves(tree) if x.ndim}


@pytest.mark.parametrize(
    "offload", [("optimizer",), ("params",), ("optimizer", "params")], ids="+".join
)
def test_offloading_changes_where_the_state_rests_and_no_number(offload):
    (state, metrics), (expected, expected_metrics) = after(2, offload), after(2, ())
    assert kinds(state.opt_state.inner) == (
        {"pinned_host"} if "optimizer" in offload else kinds(expected.opt_state.inner)
    )
    assert kinds(state.opt_state.history) == kinds(expected.opt_state.history), (
        "the guard decides on the device"
    )
    assert kinds(state.trainable) == (
        {"pinned_host"} if "params" in offload else kinds(expected.trainable)
    )
    for (path, x), y in zip(
        jax.tree.leaves_with_path(state._replace(key=0)),
        jax.tree.leaves(expected._replace(key=0)),
        strict=True,
    ):
        np.testing.assert_allclose(
            jax.device_get(x), jax.device_get(y), rtol=1e-6, atol=1e-7, err_msg=str(path)
        )
    np.testing.assert_allclose(
        metrics["loss/train"][0], expected_metrics["loss/train"][0], rtol=1e-6
    )


def test_a_restored_state_is_asked_for_where_it_rested():
    with jax.set_mesh(under(MESH)):
        model = SIZES.build(Precision(compute="float32"))
        shapes = placed(jax.eval_shape(partial(new_state, model, Full(), TX), jax.random.key(0)))
    wanted = placed_at_rest(shapes, ("optimizer",))
    for x, s in zip(
        jax.tree.leaves(after(2, ("optimizer",))[0]), jax.tree.leaves(wanted), strict=True
    ):
        assert s.sharding.is_equivalent_to(x.sharding, x.ndim) and (
            not x.ndim or s.sharding.memory_kind == x.sharding.memory_kind
        )


@pytest.mark.parametrize(
    "remat",
    [
        Remat(preset="full"),
        Remat(preset="full", offload=("residual", "gate")),
        Remat(preset="attention", keep=("up",)),
        Remat(preset="dots"),
    ],
    ids=["full", "offload", "keep", "dots"],
)
def test_what_the_backward_pass_finds_changes_no_number(remat):
    (state, metrics), (expected, expected_metrics) = after(1, (), remat), after(1, ())
    np.testing.assert_allclose(
        metrics["optimizer/grad_norm"][0], expected_metrics["optimizer/grad_norm"][0], rtol=1e-6
    )
    for x, y in zip(
        jax.tree.leaves(state.opt_state), jax.tree.leaves(expected.opt_state), strict=True
    ):
        np.testing.assert_allclose(jax.device_get(x), jax.device_get(y), rtol=1e-5, atol=1e-7)


def test_presets_keep_more_and_more():
    kept = [set(KEPT[preset]) for preset in ("full", "attention", "inputs", "projections")]
    assert all(less < more for less, more in pairwise(kept))
    for wrong in (
        {"preset": "none", "keep": ("gate",)},
        {"preset": "projections", "offload": ("gate",)},
    ):
        with pytest.raises(ValueError, match="remat"):
            Remat(**wrong)
