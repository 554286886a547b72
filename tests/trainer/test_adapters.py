"""Laws of phases that train an adapter: their checkpoints hold it alone, and go on from the base they began
with.
"""

import json
import sysconfig
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from data_pipeline.loader import PackedShards
from data_pipeline.tokenizers.tokenizer import SentencePiece
from model.adapt import LoRA
from model.architectures.llama import Llama
from model.execution import Precision
from model.sharding import spec
from tests.examples import (
    MESHES,
    ONE_DEVICE,
    at_rest_on,
    batch_on,
    built,
    host_params,
    params_on,
    quick_jit,
    random_tokens,
    under,
)
from tests.model.moe_examples import EXAMPLES as MIXTURES
from tests.model.moe_examples import clear_batch
from trainer.checkpoints.checkpointer import Checkpoints
from trainer.checkpoints.imported import save_params
from trainer.checkpoints.load import load_params
from trainer.checkpoints.stored import leaf_names
from trainer.objectives.next_token import NextToken
from trainer.optimizer import Optimizer
from trainer.optimizers.adamw import AdamW
from trainer.phase import Phase, param_shapes, state_shapes
from trainer.records.costs import costs_of
from trainer.records.results import summary_of
from trainer.run import Run
from trainer.schedules import WarmupCosine
from trainer.state import TrainState, new_state
from trainer.step import make_step

SIZES = Llama(
    vocab_size=400,
    width=16,
    layers=2,
    heads=4,
    kv_heads=2,
    head_width=6,
    feed_forward_width=24,
    context=32,
)
PRETRAIN = Run(
    architecture=SIZES,
    objective=NextToken(),
    data=PackedShards(folder="data/train", weights={"web": 1.0}, seq_len=16, batch_size=8),
    optimizer=Optimizer(
        rule=AdamW(),
        peak_lr=1e-2,
        schedule=WarmupCosine(warmup_steps=0, end_frac=0.1),
        weight_decay=0.1,
    ),
    precision=Precision(compute="float32"),
    steps=10,
    checkpoint=Checkpoints(every_steps=5),
)
ADAPTER = PRETRAIN.model_copy(
    update={"adaptation": LoRA(rank=3, alpha=6.0, base="int8"), "start_from": "pretrain"}
)
MESH = {"fsdp": 4, "tensor": 2}


@pytest.fixture(scope="module")
def job_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    (folder / "data").mkdir()
    text = (Path(sysconfig.get_paths()["stdlib"]) / "heapq.py").read_text()
    SentencePiece(vocab_size=400, model="bpe").train([text], folder / "data" / "tokenizer.model")
    save_base(folder, seed=0)
    return folder


def save_base(job_folder: Path, *, seed: int, name: str = "pretrain") -> None:
    with jax.set_mesh(mesh := under(MESH)):
        save_params(
            job_folder / name, params_on(mesh, SIZES, seed), PRETRAIN.model_dump(mode="json")
        )


def phase_of(job_folder: Path, run: Run, name: str) -> Phase:
    return Phase(run, job_folder / name, job_folder, under(MESH))


def save(phase: Phase, state: TrainState) -> None:
    phase.checkpointer.save(state, {}, phase.serialized)
    phase.checkpointer.wait()


def same_bits(one: Any, other: Any) -> bool:
    return jax.tree.all(
        jax.tree.map(lambda x, y: np.array_equal(np.array(x), np.array(y)), one, other)
    )


def test_an_adapter_resumes_bit_for_bit_from_checkpoints_that_hold_it_alone(job_folder):
    with jax.set_mesh(mesh := under(MESH)):
        phase = phase_of(job_folder, ADAPTER, "lora")
        step = quick_jit(
            make_step(
                {"policy": phase.model}, NextToken(), phase.adaptation, phase.tx, micro_batches=1
            )
        )
        batch = batch_on(mesh, random_tokens(B=8, L=8))
        state, first = step(phase.state(), batch)
        save(phase, state)
        base = jax.tree.map(np.array, state.frozen)
        whole = jax.tree.map(np.array, phase.adaptation.dense(phase.merged(state)))
        state, second = step(state, batch)
        expected = jax.tree.map(np.array, (state.trainable, state.opt_state))
        assert second["loss/train"][0] < first["loss/train"][0]

        again = phase_of(job_folder, ADAPTER, "lora")
        resumed = again.state()
        assert resumed.step == 1 and same_bits(resumed.frozen, base)
        resumed, _ = step(resumed, batch)
        assert same_bits((resumed.trainable, resumed.opt_state), expected)

        checkpoint = job_folder / "lora/checkpoints/1"
        params = [name for name in leaf_names(checkpoint) if name.startswith("params.")]
        assert params and all(name.rsplit(".", 1)[1][:2] in ("a_", "b_") for name in params)
        # who goes on from here gets plain arrays, base and update in one
        assert same_bits(load_params(job_folder / "lora").params, whole)


def test_a_base_that_has_changed_is_refused_and_named(job_folder):
    run = ADAPTER.model_copy(update={"start_from": "other", "adaptation": LoRA(rank=2, alpha=1.0)})
    save_base(job_folder, seed=0, name="other")
    with jax.set_mesh(under(MESH)):
        phase = phase_of(job_folder, run, "lora_of_other")
        save(phase, phase.state())
        (job_folder / "other").rename(job_folder / "moved")
        save_base(job_folder, seed=1, name="other")
        with pytest.raises(
            ValueError, match="of the frozen parameters differ .* bring back what start_from"
        ):
            phase_of(job_folder, run, "lora_of_other").state()
        with pytest.raises(
            ValueError, match="of the frozen parameters differ .* bring back what start_from"
        ):
            load_params(job_folder / "lora_of_other")


def test_an_adapter_of_a_model_from_scratch_makes_its_base_again_from_the_seed(job_folder):
    run = ADAPTER.model_copy(update={"start_from": None, "adaptation": LoRA(rank=2, alpha=1.0)})
    with jax.set_mesh(under(MESH)):
        phase = phase_of(job_folder, run, "lora_from_scratch")
        state = phase.state()
        save(phase, state)
        resumed = phase_of(job_folder, run, "lora_from_scratch").state()
        assert same_bits(resumed.frozen, state.frozen)
        assert same_bits(
            load_params(job_folder / "lora_from_scratch").params,
            phase.adaptation.dense(phase.merged(state)),
        )


def test_a_factor_that_does_not_divide_is_named_with_its_letter_and_both_sizes():
    def init(key: Any) -> Any:
        return {"blocks": {"w_DD2": jnp.zeros((16, 6), out_sharding=spec("DD", at_rest=True))}}

    model, mesh = built(SIZES)._replace(init=init), under(MESH)
    rule = r"mesh fsdp=4 does not divide D=6 \(model width\) of blocks.w_DD2.b_RD2; change the mesh"
    with jax.set_mesh(mesh):
        assert param_shapes(model, mesh)["blocks"]["w_DD2"].shape == (16, 6)
        with pytest.raises(ValueError, match=rule):
            state_shapes(ADAPTER, model, optax.sgd(1.0), mesh)


def test_flops_mfu_and_parameters_of_an_adapter_are_those_of_the_merged_model(job_folder):
    with jax.set_mesh(under(MESH)):
        adapter = phase_of(job_folder, ADAPTER, "lora_counted")
        full = phase_of(job_folder, PRETRAIN, "counted")
        assert sum(x.size for x in jax.tree.leaves(adapter.shapes.trainable)) < 0.5 * sum(
            x.size for x in jax.tree.leaves(full.shapes.trainable)
        )
        assert adapter.describe() == full.describe()
        costs, expected = costs_of(adapter), costs_of(full)
    # model FLOPs are the numerator of MFU, which is not defined on CPUs
    assert costs.flops_per_token == expected.flops_per_token
    assert costs.peak_flops is None and expected.peak_flops is None
    assert costs.hardware_ratio == expected.hardware_ratio
    assert costs.tokens_of(1) == expected.tokens_of(1)
    row = {f"throughput/{name}": 1.0 for name in ("tokens_per_s", "flops_per_s")}
    row |= {"step": 1, "time/step_s": 1.0}
    row |= {f"guard/{name}": 0 for name in ("skipped", "spikes", "rollbacks")}
    for phase in (adapter, full):
        phase.folder.mkdir()
        (phase.folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    assert summary_of(adapter) == summary_of(full)
    # embedding and output matrix of 512 padded entries
    n_tables = 2 * 512 * SIZES.width
    assert summary_of(adapter)["parameters"] > n_tables


@cache
def losses_of_four_steps(sizes: tuple[tuple[str, int], ...]) -> list[float]:
    """Of LoRA over the model of tests/examples.py, on the same rows in other orders."""
    adaptation = LoRA(rank=3, alpha=6.0)
    tx = PRETRAIN.optimizer.chain(10)
    with jax.set_mesh(mesh := under(dict(sizes))):
        step = quick_jit(
            make_step({"policy": built()}, NextToken(), adaptation, tx, micro_batches=1)
        )
        state = new_state(
            built(), adaptation, tx, jax.random.key(0), at_rest_on(mesh, host_params())
        )
        losses = []
        for seed in (0, 1, 0, 1):
            state, metrics = step(state, batch_on(mesh, random_tokens(B=8, L=10, seed=seed)))
            losses.append(float(metrics["loss/train"][0]))
    return losses


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_an_adapter_has_the_losses_of_one_device_over_several_steps(mesh):
    expected = losses_of_four_steps(tuple(ONE_DEVICE.items()))
    assert expected[2] < expected[0] and expected[3] < expected[1]
    losses = losses_of_four_steps(tuple(mesh.items()))
    assert losses == pytest.approx(expected, rel=1e-5)


def test_a_step_of_experts_and_latent_attention_moves_the_factors_alone():
    model, adaptation = built(MIXTURES["DeepSeekV3"]), LoRA(rank=3, alpha=6.0)
    tx = PRETRAIN.optimizer.chain(10)
    with jax.set_mesh(mesh := under(ONE_DEVICE)):
        params = params_on(mesh, MIXTURES["DeepSeekV3"])
        state = new_state(model, adaptation, tx, jax.random.key(0), params)
        before = jax.tree.map(np.array, (state.trainable, state.frozen))
        # without its weight no gradient reaches the prediction module
        objective = NextToken(mtp_weight=0.3)
        step = quick_jit(make_step({"policy": model}, objective, adaptation, tx, micro_batches=1))
        state, _ = step(state, batch_on(mesh, clear_batch("DeepSeekV3")))
        # routers and their biases, which otherwise move outside of the gradient, are frozen too
        assert same_bits(state.frozen, before[1])
        for (path, new), old in zip(
            jax.tree.leaves_with_path(state.trainable), jax.tree.leaves(before[0]), strict=True
        ):
            # with b = 0 no gradient reaches a, but weight decay does
            assert path[-1].key.startswith(("a_", "b_")) and not np.array_equal(new, old), path
