"""What a phase's steps are measured by: their learning rates, tokens and FLOPs, as numbers of the host."""

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


class Costs(NamedTuple):
    """What throughput is measured by."""

    tokens_of: Callable[[int], int]  # of a step
    peak_tokens_per_s: float  # what the devices would reach at full rate; the denominator of MFU
    hardware_ratio: float  # FLOPs computed, by those of the model: HFU / MFU


class Rates:
    """A schedule on the host. A thousand values are computed at once: each by itself would wait for the
    devices.
    """

    def __init__(self, schedule: Callable[[Any], Any]):
        self._compute, self._known = jax.jit(jax.vmap(schedule)), dict[int, float]()

    def __call__(self, n: int) -> float:
        """The learning rate after n updates."""
        if n not in self._known:
            block = np.arange(n, n + 1000)
            self._known = dict(zip(block.tolist(), np.asarray(self._compute(block)).tolist(), strict=True))
        return self._known[n]


def costs_of(phase: Phase) -> Costs:
    """Those of a phase on its mesh."""
    run, data = phase.run, phase.run.data
    length = data.row_length
    flops = run_flops_per_token(run, phase.params)
    policy = run.architecture, phase.params["policy"]
    computed = hardware_flops_per_token_of(*policy, length=length, execution=run.execution)
    computed_again = computed - flops_per_token_of(*policy, length=length)
    peak = peak_flops(jax.devices()[0]) * phase.mesh.size

    def tokens_of(step: int) -> int:
        return batch_size_at(step, data.batch_size, run.batch_ramp) * length

    return Costs(tokens_of, peak / flops, hardware_ratio=1 + computed_again / flops)


def run_flops_per_token(run: Run, params: Mapping[str, Params]) -> float:
    """Model FLOPs of a training step, a token: those of the merged policy, and a forward pass of every other
    role. `params` are arrays or their shapes, by role.
    """
    length = run.data.row_length
    flops = flops_per_token_of(run.architecture, params["policy"], length=length)
    for name, role in run.roles.items():
        architecture = role.architecture or run.architecture
        trained = flops_per_token_of(architecture, params[name], length=length)
        flops += trained / 3  # of a product forward, by inputs and by weights the first alone
    return flops
