"""The real training step on one made-up batch, timed next to matrix products.

What is measured is a shape by name, or that of a Run.
"""

import time
from typing import Any, NamedTuple

import jax
import numpy as np
from pydantic import BaseModel, PositiveInt

from data_pipeline.batch import TokenBatch
from data_pipeline.component import FrozenMap, one_of
from data_pipeline.loader import PackedShards
from model.architectures.gpt2 import PRESETS as GPT2_PRESETS
from model.execution import DEFAULT, Execution, Precision
from model.mesh import Mesh
from model.sharding import letters_of, named
from model.size import flops_per_token_of, n_matmul_params, n_params
from trainer.assemble import training_step
from trainer.checkpoints.retention import Checkpoints
from trainer.memory import memory_row, peak_host_bytes
from trainer.models import model_of
from trainer.norms import Watch
from trainer.objectives.next_token import NextToken
from trainer.offload import at_rest
from trainer.optimizer import Optimizer
from trainer.phase import initial_state
from trainer.records.breakdown import made_up_byte_lengths
from trainer.records.peak_flops import matmul_rates, n_sharers
from trainer.run import Run

STEPS = 1000  # length of the schedule, which does not change the cost of a step
# Width of the square products. A CPU reaches its full rate early; on an accelerator a product of 2048² takes
# 20 µs, so the time to start it would count as much as the product.
MATMUL_SIZE = {"cpu": 2048, "gpu": 8192, "tpu": 8192}
ADAMW = {
    "rule": {"type": "AdamW"},
    "peak_lr": 1e-4,
    "weight_decay": 0.1,
    "schedule": {"type": "WarmupCosine", "warmup_steps": 10, "end_frac": 0.1},
}
LLAMA_31M = {  # 31.5 M parameters in products: the shape that docs and issues quote
    "type": "Llama",
    "vocab_size": 8192,
    "width": 512,
    "layers": 8,
    "heads": 8,
    "kv_heads": 8,
    "head_width": 64,
    "feed_forward_width": 1536,
    "context": 512,
}
# As JSON, so that `--set` can override any field.
GPT2_124M = {"type": "GPT2", **GPT2_PRESETS["gpt2_124m"].model_dump(mode="json")}
BATCH = {"optimizer": ADAMW, "batch_size": 8, "seq_len": 512}
SHAPES = {
    "llama_31m": {"architecture": LLAMA_31M, **BATCH},
    "gpt2_124m": {"architecture": GPT2_124M, **BATCH},
}


class TrainShape(BaseModel, frozen=True, extra="forbid", strict=True):
    """All that decides what a step costs; the fields are those of a Run."""

    architecture: one_of("model.architectures")
    optimizer: Optimizer
    batch_size: PositiveInt
    seq_len: PositiveInt
    micro_batches: PositiveInt = 1
    precision: Precision = Precision()
    execution: Execution = Execution()
    mesh: Mesh = Mesh()

    def run(self) -> Run:
        """A Run of these sizes, whose data nobody reads, and whose norms nobody looks at."""
        data = PackedShards(
            folder="",
            weights=FrozenMap(made_up=1.0),
            seq_len=self.seq_len,
            batch_size=self.batch_size,
        )
        return Run(
            architecture=self.architecture,
            objective=NextToken(),
            data=data,
            optimizer=self.optimizer,
            steps=STEPS,
            checkpoint=Checkpoints(every_steps=STEPS),
            mesh=self.mesh,
            precision=self.precision,
            execution=self.execution,
            micro_batches=self.micro_batches,
            watch=Watch(norms_every=0),
        )


def shape_from(
    architecture: Any,
    *,
    batch_size: int,
    seq_len: int,
    rule: str = "AdamW",
    params: str = "float32",
    execution: Execution = DEFAULT,
) -> TrainShape:
    """A shape made in Python; `rule` is the type of one in trainer/optimizers that needs no fields, `params`
    the dtype of the parameters.
    """
    return TrainShape(
        architecture=architecture,
        # What ADAMW says beside its rule (rate, decay, schedule) serves any rule.
        optimizer=Optimizer(**{**ADAMW, "rule": {"type": rule}}),
        batch_size=batch_size,
        seq_len=seq_len,
        precision=Precision(params=params),
        execution=execution,
    )


def shape_of_run(run: Run) -> dict[str, Any]:
    """The tree of the TrainShape of a Run."""
    tree = run.model_dump(mode="json")
    # a Run keeps seq_len and batch_size with its data
    return {
        name: tree["data"][name] if name in tree["data"] else tree[name]
        for name in TrainShape.model_fields
    }


class Round(NamedTuple):
    """One step, and the median rate of five products measured right after it, when other work on the machine
    slows both alike.

    `matmul_flops` is in FLOP/s of one device.
    """

    step_s: float
    matmul_flops: float


def describe(shape: TrainShape, n_devices: int) -> tuple[str, float]:
    """(a sentence about the shape, its FLOPs a token)."""
    # eval_shape computes shapes alone, so that describing 70 B parameters needs no memory.
    params = jax.eval_shape(shape.architecture.build(shape.precision).init, jax.random.key(0))
    flops = flops_per_token_of(shape.architecture, params, length=shape.seq_len)
    sizes = f"{n_params(params) / 1e6:.1f} M parameters ({n_matmul_params(params) / 1e6:.1f} M in products)"
    rows = f"{shape.batch_size} × {shape.seq_len} tokens"
    devices = f"{n_devices} × {jax.devices()[0].device_kind}"
    how = f"{shape.precision.compute}, {type(shape.optimizer.rule).__name__}, {devices}"
    name = type(shape.architecture).__name__
    return f"{name}, {sizes}, {rows}, {how}; {flops / 1e6:.1f} MFLOP a token", flops


def measure(shape: TrainShape, mesh: jax.sharding.Mesh, *, n_rounds: int) -> list[Round]:
    """Rounds after one that compiles and one that warms up. Call under `jax.set_mesh(mesh)`."""
    run = shape.run()
    model = model_of(run)
    tx = run.optimizer.chain(run.steps)
    make_state = initial_state(run, model, tx)

    # Under jit every array is created in its layout, and no device holds all of it.
    first_state = jax.jit(lambda key: at_rest(make_state(key), run.execution.offload))
    state = first_state(jax.random.key(0))
    step = training_step(
        run, {"policy": model}, tx, made_up_byte_lengths(run.architecture.vocab_size)
    )
    batch = made_up_batch(shape, mesh)
    device = mesh.devices.flat[0]
    size = MATMUL_SIZE.get(device.platform, 2048)
    rounds = []
    for _ in range(n_rounds + 2):
        start = time.perf_counter()
        state, _ = jax.block_until_ready(step(state, batch))
        step_s = time.perf_counter() - start
        rates = matmul_rates(device, n_repeats=5, size=size)
        # On a CPU several jax devices share the cores; each has its share of the measured rate.
        rounds.append(Round(step_s, float(np.median(rates)) / n_sharers(device)))

    # Left out: the first compiled, the second may still pay for allocations and autotuning.
    return rounds[2:]


def made_up_batch(shape: TrainShape, mesh: jax.sharding.Mesh) -> TokenBatch:
    """Rows of one document of random tokens each, all of them targets."""
    size = (shape.batch_size, shape.seq_len)
    tokens_BL = (
        np.random.default_rng(0).integers(0, shape.architecture.vocab_size, size).astype(np.int32)
    )
    ones_BL = np.ones(size, np.int32)
    positions_BL = np.broadcast_to(np.arange(shape.seq_len, dtype=np.int32), size)
    batch = TokenBatch(
        tokens_BL,
        # Targets are the next tokens; the last position has the first token, at the same cost.
        np.roll(tokens_BL, -1, 1),
        ones_BL.astype(np.float32),
        positions_BL,
        ones_BL,
        # Every token is of source 0.
        0 * ones_BL,
    )
    fields = zip(batch._fields, batch, strict=True)
    return TokenBatch(*(jax.device_put(x, named(mesh, letters_of(name))) for name, x in fields))


def figures(
    rounds: list[Round], *, tokens: int, flops_per_token: float, n_devices: int
) -> dict[str, float]:
    """Medians over the rounds; MFU is their ratio; `peak_bytes` is the most memory ever in use, of a device
    or of the process.
    """
    # columns: the fields of Round
    step_s, matmul_flops = np.median(np.array(rounds), 0)
    flops_per_s = tokens * flops_per_token / step_s
    return {
        "step_s": float(step_s),
        "tokens_per_s": float(tokens / step_s),
        "flops_per_s": float(flops_per_s),
        "matmul_flops_per_s": float(matmul_flops * n_devices),
        "mfu": float(flops_per_s / (matmul_flops * n_devices)),
        "peak_bytes": peak_bytes(),
    }


def peak_bytes() -> int:
    """Most bytes in use on the fullest device, where devices count their memory; else in this process."""
    # `or`: without such a counter (CPUs) the row lacks the field, or has 0.
    return int(memory_row().get("memory/device_peak_bytes") or peak_host_bytes())


def lines(numbers: dict[str, float], rounds: list[Round], n_devices: int) -> list[str]:
    """The figures for people, with the range of what was measured in brackets."""
    step_s, matmul_flops = np.array(rounds).T
    matmul_gflops = numbers["matmul_flops_per_s"] / 1e9
    lowest = np.min(matmul_flops) * n_devices / 1e9
    highest = np.max(matmul_flops) * n_devices / 1e9
    matmul_range = f"({lowest:,.0f} to {highest:,.0f}), square, bfloat16, on the same devices"
    return [
        f"step    {numbers['step_s']:9.3f} s        ({np.min(step_s):.3f} to {np.max(step_s):.3f})",
        f"speed   {numbers['tokens_per_s']:9,.0f} tokens/s",
        f"        {numbers['flops_per_s'] / 1e9:9,.0f} GFLOP/s",
        f"matmul  {matmul_gflops:9,.0f} GFLOP/s  {matmul_range}",
        f"MFU     {numbers['mfu']:9.1%}",
        f"memory  {numbers['peak_bytes'] / 2**30:9.2f} GiB at most",
    ]
