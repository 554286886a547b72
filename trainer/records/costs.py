"""What a phase's steps are measured by: their learning rates, tokens and FLOPs, as numbers of the host."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from model.recompute import hardware_flops_per_token_of
from model.size import flops_per_token_of
from trainer.batches.position import batch_size_at
from trainer.phase import Phase
from trainer.records.peak_flops import peak_flops


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
    run, data, of = phase.run, phase.run.data, (phase.run.architecture, phase.shapes.trainable)
    flops = flops_per_token_of(*of, length=data.seq_len)
    computed = hardware_flops_per_token_of(*of, length=data.seq_len, execution=run.execution)

    def tokens_of(step: int) -> int:
        return batch_size_at(step, data.batch_size, run.batch_ramp) * data.seq_len

    return Costs(
        tokens_of, peak_flops(jax.devices()[0]) * phase.mesh.size / flops, hardware_ratio=computed / flops
    )
