"""The composition root: the training step of a Run, one for the loop, `plan`, `replay` and the benches."""

from collections.abc import Mapping
from functools import partial

import numpy as np
import optax

from model.api import Model
from trainer.models import adaptation_of
from trainer.phase import Phase
from trainer.records.breakdown import Breakdown
from trainer.run import Run
from trainer.step import TrainStep, make_step


def training_step(
    run: Run, models: Mapping[str, Model], tx: optax.GradientTransformation, n_bytes_V: np.ndarray
) -> TrainStep:
    """The step that trains `run`; `n_bytes_V` are the UTF-8 bytes of each entry of the tokenizer."""
    return make_step(
        models,
        run.objective,
        adaptation_of(run),
        tx,
        micro_batches=run.micro_batches,
        offload=run.execution.offload,
        guard=run.guard,
        breakdown=Breakdown(run.data.source_names(), n_bytes_V),
        # `rounds`: a pipelined stack stores its layers in the order of the stages' rounds, while
        # the log names them in the order of the model.
        watch=partial(run.watch.arrays, rounds=run.execution.pipeline.rounds),
    )


def step_of(phase: Phase) -> TrainStep:
    """The training step of a phase, which is a Run on devices: (state, batch) -> (state, metrics)."""
    step = training_step(phase.run, phase.models, phase.tx, phase.tokenizer.byte_lengths)
    # an argument and no closure: what a jitted function closes over becomes constants of its program
    return partial(step, others=phase.load_others())
