"""Every optimizer on the same small run: loss against tokens and against time, and what its state weighs.

A Llama of 0.16 M parameters reads the bytes of Python's own standard library. Parameters, batches and
schedule are the same for all, and each has its own learning rate (`TUNED`).
"""

import argparse
import json
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from data_pipeline.batch import TokenBatch
from data_pipeline.component import components_in
from launch.bench.train import TrainShape
from model.architectures.llama import Llama
from model.execution import Precision
from model.mesh import make_mesh
from model.sharding import letters_of, named
from trainer.assemble import training_step
from trainer.models import model_of
from trainer.optimizer import Optimizer
from trainer.phase import initial_state
from trainer.schedules import WarmupCosine

ARCHITECTURE = Llama(
    vocab_size=256,
    width=64,
    layers=2,
    heads=2,
    kv_heads=2,
    head_width=32,
    feed_forward_width=256,
    context=64,
)
# Rows are short, so that all six runs end within minutes on a laptop.
BATCH_SIZE, SEQ_LEN, HELD_OUT_ROWS = 16, 64, 256
# 400 steps of 1,024 tokens read a tenth of it, so no byte is seen often enough to be memorised.
TEXT_BYTES, HELD_OUT_FRAC = 4_000_000, 0.05
SCHEDULE = WarmupCosine(warmup_steps=20, end_frac=0.1)
# Each rate gave the lowest loss after 300 steps; half or twice the rate gave 0.007 to 0.11 nats more.
# AdamW8bit has AdamW's, to be compared with it. Decay is 0.1, but none for Adafactor, whose steps are
# relative to the parameters, and for Lion the better of 0.2 and 0.8: it decays by rate × decay.
TUNED = {
    "AdamW": {"peak_lr": 4e-3, "weight_decay": 0.1},
    "AdamW8bit": {"peak_lr": 4e-3, "weight_decay": 0.1},
    "Lion": {"peak_lr": 2e-3, "weight_decay": 0.8},
    "Adafactor": {"peak_lr": 4e-2, "weight_decay": 0.0},
    "Muon": {"peak_lr": 1.6e-2, "weight_decay": 0.1},
    "SOAP": {"peak_lr": 1.6e-2, "weight_decay": 0.1},
}


class Outcome(NamedTuple):
    """What one optimizer did: held-out nats a byte after a quarter, a half and all of the steps, the median
    step, the state's bytes.
    """

    quarter: float
    half: float
    whole: float
    step_s: float
    state_bytes: int


def bench_optimizers(args: argparse.Namespace) -> None:
    """Train with each, and print a line each; `args` has `steps` and `json`.

    Raises:
        ValueError: fewer steps than twice the warmup.
    """
    if args.steps < 2 * SCHEDULE.warmup_steps:
        least = 2 * SCHEDULE.warmup_steps
        raise ValueError(
            f"--steps {args.steps}: must be at least {least}, twice the warmup; raise it"
        )
    outcomes = {}
    if not args.json:
        print(header(args.steps), flush=True)
    # One device, because another mesh would add in another order and round differently.
    with jax.set_mesh(make_mesh(jax.devices()[:1])):
        for name, optimizer in optimizers().items():
            outcomes[name] = train(optimizer, steps=args.steps)
            if not args.json:
                print(line(name, outcomes[name], args.steps), flush=True)
    if args.json:
        by_name = {name: outcome._asdict() for name, outcome in outcomes.items()}
        print(json.dumps({"steps": args.steps, **by_name}))


def optimizers() -> dict[str, Optimizer]:
    """Name of a rule -> optimizer with that rule, tuned for this bench."""
    rules = components_in("trainer.optimizers")
    return {
        # By class name; a new rule is left out until TUNED has its rate.
        name: Optimizer(rule=rules[name](), schedule=SCHEDULE, **tuned)
        for name, tuned in TUNED.items()
    }


def train(optimizer: Optimizer, *, steps: int, seed: int = 0) -> Outcome:
    """Train from scratch, 4 steps or more. Call under `jax.set_mesh`."""
    shape = TrainShape(
        architecture=ARCHITECTURE,
        optimizer=optimizer,
        batch_size=BATCH_SIZE,
        seq_len=SEQ_LEN,
        precision=Precision(compute="float32"),
    )
    run = shape.run().model_copy(update={"steps": steps})
    model = model_of(run)
    tx = optimizer.chain(steps)
    objective = run.objective
    # Under jit, as training makes its first state.
    state = jax.jit(initial_state(run, model, tx))(jax.random.key(seed))
    # Every token is one byte long.
    step = training_step(run, {"policy": model}, tx, np.ones(ARCHITECTURE.vocab_size))
    text, held_out = text_bytes()

    # One batch of the held-out text, the same for every optimizer.
    unseen = next(batches(held_out, rows=HELD_OUT_ROWS, length=SEQ_LEN, seed=seed))

    @jax.jit
    def held_out_loss(params: Any) -> Any:
        return objective.loss(
            # No dropout in this model, so any key gives the same loss.
            {"policy": (model, params)},
            unseen,
            objective.denominators(unseen),
            jax.random.key(0),
        ).total

    times, losses = [], []
    # strict=False: batches never end.
    for number, batch in zip(
        range(1, steps + 1), batches(text, rows=BATCH_SIZE, length=SEQ_LEN, seed=seed), strict=False
    ):
        start = time.perf_counter()
        # Waited for: jax returns before the device has finished.
        state, _ = jax.block_until_ready(step(state, batch))
        times.append(time.perf_counter() - start)
        # Rounded down where steps is no multiple of 4.
        if number in (steps // 4, steps // 2, steps):
            losses.append(float(held_out_loss(state.trainable)))
    state_bytes = sum(x.nbytes for x in jax.tree.leaves(state.opt_state.inner))

    # The median, because the first step compiles.
    return Outcome(*losses, step_s=sorted(times)[steps // 2], state_bytes=state_bytes)


def text_bytes() -> tuple[np.ndarray, np.ndarray]:
    """(training, held-out) bytes of the modules in the order of their names; what comes last is held out."""
    # Sorted: the order of a folder differs between file systems.
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    text = np.frombuffer(b"".join(file.read_bytes() for file in files)[:TEXT_BYTES], np.uint8)
    cut = round(len(text) * (1 - HELD_OUT_FRAC))
    return text[:cut], text[cut:]


def batches(text: np.ndarray, *, rows: int, length: int, seed: int) -> Iterator[TokenBatch]:
    """Rows of `length` bytes from anywhere in the text, without end, on the current mesh."""
    rng = np.random.default_rng(seed)
    mesh = jax.sharding.get_mesh()
    ones_BL = np.ones((rows, length), np.int32)
    positions_BL = np.broadcast_to(np.arange(length, dtype=np.int32), (rows, length))
    while True:
        first = rng.integers(0, len(text) - length, rows)
        # [rows, length + 1]: inputs are all but a row's last byte, targets all but its first.
        tokens = text[first[:, None] + np.arange(length + 1)].astype(np.int32)
        batch = TokenBatch(
            tokens[:, :-1],
            tokens[:, 1:],
            ones_BL.astype(np.float32),
            positions_BL,
            ones_BL,
            # Every token is of source 0.
            0 * ones_BL,
        )
        fields = zip(batch._fields, batch, strict=True)
        yield TokenBatch(*(jax.device_put(x, named(mesh, letters_of(name))) for name, x in fields))


def header(steps: int) -> str:
    """The heads of the columns; losses stand under the tokens they were reached after."""
    quarter, half, whole = (
        f"{n * BATCH_SIZE * SEQ_LEN / 1e3:,.0f}k" for n in (steps // 4, steps // 2, steps)
    )
    losses = f"{'nats a byte after tokens':24} {quarter:>7} {half:>7} {whole:>7}"
    return f"{losses} {'ms a step':>10} {'s in all':>9} {'state MB':>9}"


def line(name: str, outcome: Outcome, steps: int) -> str:
    """An optimizer's figures below the header."""
    quarter, half, whole, step_s, state_bytes = outcome
    losses = f"{name:24} {quarter:7.3f} {half:7.3f} {whole:7.3f}"
    return f"{losses} {step_s * 1e3:10.1f} {step_s * steps:9.1f} {state_bytes / 1e6:9.2f}"
