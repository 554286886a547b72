"""The real training step on one made-up batch, timed next to matrix products."""

import time
from typing import Any, NamedTuple

import jax
import numpy as np
from pydantic import BaseModel, PositiveInt

from data_pipeline.batch import TokenBatch
from data_pipeline.component import one_of
from model.adapt import Full
from model.api import Precision
from model.sharding import Mesh, letters_of, named
from model.size import flops_per_token_of, n_matmul_params, n_params
from trainer.objectives.next_token import NextToken
from trainer.profile import matmul_rates, n_sharers
from trainer.state import new_state
from trainer.step import make_step

NOTE = {  # 31.5 M parameters in products: the shape that docs and issues quote
    "architecture": {
        "type": "Llama",
        "vocab_size": 8192,
        "width": 512,
        "layers": 8,
        "heads": 8,
        "kv_heads": 8,
        "head_width": 64,
        "feed_forward_width": 1536,
        "context": 512,
    },
    "optimizer": {
        "type": "AdamW",
        "peak_lr": 1e-4,
        "weight_decay": 0.1,
        "schedule": {"type": "WarmupCosine", "warmup_steps": 10, "end_frac": 0.1},
    },
    "batch_size": 8,
    "seq_len": 512,
}
STEPS = 1000  # length of the schedule; it costs nothing


class StepShape(BaseModel, frozen=True, extra="forbid", strict=True):
    """All that decides what a step costs; the fields are those of a Run."""

    architecture: one_of("model.architectures")
    optimizer: one_of("trainer.optimizers")
    batch_size: PositiveInt
    seq_len: PositiveInt
    micro_batches: PositiveInt = 1
    precision: Precision = Precision()
    mesh: Mesh = Mesh()


class Round(NamedTuple):
    """One step and the median of five products beside it, because other work comes and goes; FLOP/s of one device's share."""

    step_s: float
    matmul_flops: float


def shape_of_run(run: Any) -> dict[str, Any]:
    """The tree of the StepShape of a Run."""
    saved = run.model_dump(mode="json")
    return {name: saved["data"][name] if name in saved["data"] else saved[name] for name in StepShape.model_fields}


def describe(shape: StepShape, n_devices: int) -> tuple[str, float]:
    """A sentence about the shape, and its FLOPs a token."""
    params = jax.eval_shape(shape.architecture.build(shape.precision).init, jax.random.key(0))
    flops = flops_per_token_of(shape.architecture, params, length=shape.seq_len)
    sizes = f"{n_params(params) / 1e6:.1f} M parameters ({n_matmul_params(params) / 1e6:.1f} M in products)"
    rows = f"{shape.batch_size} × {shape.seq_len} tokens"
    how = f"{shape.precision.compute}, {type(shape.optimizer).__name__}, {n_devices} × {jax.devices()[0].device_kind}"
    return f"{type(shape.architecture).__name__}, {sizes}, {rows}, {how}; {flops / 1e6:.1f} MFLOP a token", flops


def measure(shape: StepShape, mesh: jax.sharding.Mesh, *, n_rounds: int) -> list[Round]:
    """Rounds after one that compiles and one that warms up. Call under `jax.set_mesh(mesh)`."""
    model, tx = shape.architecture.build(shape.precision), shape.optimizer.chain(STEPS)
    state = jax.jit(lambda key: new_state(model, Full(), tx, key))(jax.random.key(0))
    step = make_step(model, NextToken(), Full(), tx, micro_batches=shape.micro_batches)
    batch, device = made_up_batch(shape, mesh), mesh.devices.flat[0]
    rounds = []
    for _ in range(n_rounds + 2):
        start = time.perf_counter()
        state, metrics = jax.block_until_ready(step(state, batch))
        step_s = time.perf_counter() - start
        rounds.append(Round(step_s, float(np.median(matmul_rates(device, n_repeats=5))) / n_sharers(device)))
    return rounds[2:]


def made_up_batch(shape: StepShape, mesh: jax.sharding.Mesh) -> TokenBatch:
    """Rows of one document of random tokens each, all of them targets."""
    size = (shape.batch_size, shape.seq_len)
    tokens_BL = np.random.default_rng(0).integers(0, shape.architecture.vocab_size, size).astype(np.int32)
    ones_BL, positions_BL = np.ones(size, np.int32), np.broadcast_to(np.arange(shape.seq_len, dtype=np.int32), size)
    batch = TokenBatch(tokens_BL, np.roll(tokens_BL, -1, 1), ones_BL.astype(np.float32), positions_BL, ones_BL, 0 * ones_BL)
    return TokenBatch(*(jax.device_put(x, named(mesh, letters_of(name))) for name, x in zip(batch._fields, batch, strict=True)))


def lines(rounds: list[Round], *, tokens: int, flops_per_token: float, n_devices: int) -> list[str]:
    """Medians, with the range in brackets; MFU is the ratio of the two medians."""
    step_s, matmul_flops = np.array(rounds).T
    median_s, peak = np.median(step_s), np.median(matmul_flops) * n_devices
    flops = tokens * flops_per_token / median_s
    low, high = (edge(matmul_flops) * n_devices / 1e9 for edge in (np.min, np.max))
    return [
        f"step    {median_s:9.3f} s        ({np.min(step_s):.3f} to {np.max(step_s):.3f})",
        f"speed   {tokens / median_s:9,.0f} tokens/s",
        f"        {flops / 1e9:9,.0f} GFLOP/s",
        f"matmul  {peak / 1e9:9,.0f} GFLOP/s  ({low:,.0f} to {high:,.0f}), square, bfloat16, on the same devices",
        f"MFU     {flops / peak:9.1%}",
    ]
