"""One small example of every optimizer, parameters of every kind, and runs of steps on meshes."""

from functools import cache
from typing import Any

import jax
import numpy as np
import optax

from tests.examples import ONE_DEVICE, at_rest_on, quick_jit, under
from trainer.optimizer import Optimizer
from trainer.optimizers.adafactor import Adafactor
from trainer.optimizers.adamw import AdamW
from trainer.optimizers.adamw8bit import AdamW8bit
from trainer.optimizers.lion import Lion
from trainer.optimizers.muon import Muon
from trainer.optimizers.soap import SOAP
from trainer.schedules import Constant, WarmupCosine

SCHEDULE = WarmupCosine(warmup_steps=4, end_frac=0.1)
CONSTANT = Constant(warmup_steps=0)
COMMON = {"peak_lr": 0.1, "schedule": SCHEDULE, "weight_decay": 0.05, "no_decay": (r"blocks\.wo_",)}
EXAMPLES = {
    "AdamW": Optimizer(rule=AdamW(), **COMMON),
    "AdamW8bit": Optimizer(rule=AdamW8bit(), **COMMON),
    "Lion": Optimizer(rule=Lion(), **COMMON),
    "Adafactor": Optimizer(rule=Adafactor(b1=0.9), **COMMON),
    "Muon": Optimizer(rule=Muon(rms=1.0), **COMMON),
    # the long side of w_DF is not rotated; with a small eps rounding would decide what becomes of a direction
    # that no gradient has yet
    "SOAP": Optimizer(rule=SOAP(every=2, max_side=32, eps=1e-3), **COMMON),
}
STEPS = 40
RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    """Numbers of the one generator of these tests."""
    return RNG.normal(size=shape).astype(np.float32)


PARAMS = {
    "embed_VD": normal(24, 16),
    "w_DF": normal(16, 256),  # large enough for 8 bits
    "norm": {"scale_D": normal(16)},
    "blocks": {
        "scale_ND": normal(3, 16),
        "bq_NHA": normal(3, 2, 4),
        "wq_NDHA": normal(3, 16, 2, 4),
        "wo_NHAD": normal(3, 2, 4, 16),
    },
}
GRADIENT = jax.tree.map(lambda x: normal(*x.shape), PARAMS)


def run(
    optimizer: Any,
    gradients: list,
    *,
    params: Any = PARAMS,
    state: Any = None,
    sizes: dict[str, int] = ONE_DEVICE,
) -> tuple[Any, Any]:
    """(parameters, optimizer state) after a step with each of the gradients, on a mesh; from a new state if
    none is given.
    """
    mesh, (init, step) = under(sizes), compiled(optimizer, tuple(sizes.items()))
    with jax.set_mesh(mesh):
        params = at_rest_on(mesh, params)
        state = init(params) if state is None else state
        for gradient in gradients:
            params, state = step(at_rest_on(mesh, gradient), state, params)
    return params, state


@cache
def compiled(optimizer: Any, sizes: tuple) -> tuple[Any, Any]:
    """(init, step) of an optimizer; `sizes` name the mesh that they are called under."""
    tx = optimizer.chain(STEPS)

    def step(gradient: Any, state: Any, params: Any) -> tuple[Any, Any]:
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    return quick_jit(tx.init), quick_jit(step)
