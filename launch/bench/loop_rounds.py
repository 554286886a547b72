"""The loop of a phase and a bare one around the same compiled step, in turns, because other work comes and
goes on a machine.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from launch.bench.made_up_job import run_of
from trainer.assemble import loop_parts, open_source, recording, watching
from trainer.evals.measure import Measures
from trainer.loop import LoopParts, train
from trainer.phase import Phase
from trainer.records.goodput import Ledger

STEP_S = 0.05  # what a step is to take
FIRST_ROWS = 8
STEPS = 20  # of a round
HOST_STEPS = 100


class Round(NamedTuple):
    """Median seconds of a step."""

    bare_s: float
    loop_s: float


class Measured(NamedTuple):
    """`host_s` is the time a step in which the loop's own thread works, by the thread's clock: other work
    on the machine is none of it.
    """

    rounds: list[Round]
    host_s: float


def measure(job_folder: Path, *, n_rounds: int) -> Measured:
    """Rounds on a job whose data are written, with as many rows in a batch as make a step of about STEP_S."""
    for rows in range(FIRST_ROWS, 64 * FIRST_ROWS, FIRST_ROWS):
        with _opened(job_folder, f"rows{rows}", rows) as (phase, parts):
            state = train(parts, phase.state(), steps=STEPS)
            if _bare(parts, phase) > 0.8 * STEP_S:
                return _measured(parts, phase, state, n_rounds)
    raise ValueError(
        f"{64 * FIRST_ROWS} rows are stepped through in less than {STEP_S} s here; this bench is for slower machines"
    )


def _measured(parts: LoopParts, phase: Phase, state: Any, n_rounds: int) -> Measured:
    found = []
    for number in range(2, n_rounds + 2):
        phase.checkpointer.wait()
        bare_s, began = _bare(parts, phase), list[float]()
        state = train(parts._replace(step=_stamped(parts.step, began)), state, steps=number * STEPS)
        found.append(Round(bare_s, _between(began)))
    return Measured(found, _host_s(parts, phase, state))


def _stamped(step: Callable[..., Any], began: list[float]) -> Callable[..., Any]:
    """The step, which notes when it was called; what is called late was waiting for the step before last."""

    def stamped(state: Any, batch: Any) -> Any:
        began.append(time.perf_counter())
        return step(state, batch)

    return stamped


def _between(began: list[float]) -> float:
    """The median, without the two steps that nothing was under way before."""
    return float(np.median(np.diff(began[2:])))


@contextlib.contextmanager
def _opened(job_folder: Path, name: str, batch_size: int) -> Iterator[tuple[Phase, LoopParts]]:
    """All that training is done with (trainer/execute.py)."""
    run = run_of(batch_size)
    mesh = run.mesh.make()
    with contextlib.ExitStack() as opened:
        opened.enter_context(jax.set_mesh(mesh))
        phase = Phase(run, job_folder / name, job_folder, mesh)
        ledger = Ledger(phase.folder, 0, active=True, started=time.time())
        source, watchers = open_source(phase), opened.enter_context(watching(run, phase.folder))
        records = recording(phase, source, ledger, *watchers, first=0, advance=lambda *_: None, profile=None)
        recorder, profiler = opened.enter_context(records)
        yield phase, loop_parts(phase, source, recorder, Measures(phase), profiler, first=0)
        phase.checkpointer.close()


def _bare(parts: LoopParts, phase: Phase) -> float:
    """When nothing is done but steps, on one batch; each is waited for while the next one is under way, as
    the loop does.
    """
    state, batch = phase.state(), open_source(phase).next(dict)
    jax.block_until_ready((state, batch))
    began, before = list[float](), None
    step = _stamped(parts.step, began)
    for _ in range(STEPS):
        state, metrics = step(state, batch)
        jax.block_until_ready(before)
        before = metrics
    return _between(began)


def _host_s(parts: LoopParts, phase: Phase, state: Any) -> float:
    """The loop around steps of STEP_S in which no device works: its own thread's time alone."""
    _, metrics = jax.block_until_ready(parts.step(phase.state(), open_source(phase).next(dict)))

    def idle(state: Any, batch: Any) -> tuple[Any, dict[str, Any]]:
        time.sleep(STEP_S)
        return state, dict(metrics)

    start = time.thread_time()
    train(
        parts._replace(step=idle), state, steps=int(state.step) + HOST_STEPS
    )  # what it saves in the end is saved already
    return (time.thread_time() - start) / HOST_STEPS
