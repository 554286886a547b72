"""Learning rate, tokens and FLOPs of a phase's steps, computed on the host for the log."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from model.api import Params
from model.recompute import hardware_flops_per_token_of
from model.size import flops_per_token_of
from trainer.batches.position import batch_size_at
from trainer.phase import Phase
from trainer.records.peak_flops import peak_flops
from trainer.run import Run

BLOCK = 1000  # learning rates computed in one call


class Costs(NamedTuple):
    """What throughput is computed from."""

    tokens_of: Callable[[int], int]  # step -> tokens in its batch
    flops_per_token: float  # of the model, in a training step
    # FLOP/s of all devices together: the denominator of MFU. None on CPUs: what they reach depends on what
    # else runs at that minute, so that a share of it would compare nothing.
    peak_flops: float | None
    hardware_ratio: (
        float  # FLOPs computed, recomputation included, over the model's FLOPs: HFU / MFU
    )


class Rates:
    """A learning rate schedule on the host.

    Many values are computed in one call, since each call waits for the step that the devices are running.
    """

    def __init__(self, schedule: Callable[[Any], Any]):
        self._compute = jax.jit(jax.vmap(schedule))
        self._known = dict[int, float]()

    def __call__(self, n: int) -> float:
        """The learning rate after n updates."""
        if n not in self._known:
            block = np.arange(n, n + BLOCK)
            rates = np.asarray(self._compute(block))
            self._known = dict(zip(block.tolist(), rates.tolist(), strict=True))
        return self._known[n]


def costs_of(phase: Phase) -> Costs:
    """The costs of a phase's steps on its mesh."""
    run = phase.run
    length = run.data.row_length
    flops = run_flops_per_token(run, phase.params)
    policy = (run.architecture, phase.params["policy"])
    computed = hardware_flops_per_token_of(*policy, length=length, execution=run.execution)
    # of the policy alone: the other roles have no backward pass, so nothing of them is recomputed
    recomputed = computed - flops_per_token_of(*policy, length=length)
    device = jax.devices()[0]
    peak = None if device.platform == "cpu" else peak_flops(device) * phase.mesh.size

    def tokens_of(step: int) -> int:
        return batch_size_at(step, run.data.batch_size, run.batch_ramp) * length

    return Costs(tokens_of, flops, peak, hardware_ratio=1 + recomputed / flops)


def run_flops_per_token(run: Run, params: Mapping[str, Params]) -> float:
    """Model FLOPs of a training step per token: those of the merged policy, and a forward pass of each role.

    `params` are arrays or their shapes, by role.
    """
    length = run.data.row_length
    flops = flops_per_token_of(run.architecture, params["policy"], length=length)
    for name, role in run.roles.items():
        architecture = role.architecture or run.architecture
        trained_flops = flops_per_token_of(architecture, params[name], length=length)
        # a third: training multiplies three times per weight (forward, gradient by inputs, gradient by
        # weights), a forward pass once
        flops += trained_flops / 3
    return flops
