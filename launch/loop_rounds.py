"""The loop of a phase and a bare one around the same compiled step, in turns, because other work comes and goes on a machine."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from launch.bench_job import run_of
from trainer.cluster.hosts import Hosts
from trainer.cluster.watchdog import Watchdog
from trainer.goodput import Ledger
from trainer.loop import Parts, train
from trainer.measure import Measures
from trainer.metrics import read_metrics
from trainer.parts import parts_of
from trainer.phase import Phase
from trainer.rows import source_of
from trainer.telemetry import recording

STEP_S = 0.05  # what a step is to take
FIRST_ROWS = 8
STEPS = 50  # of a round: every kind of row that the loop writes is among them
HOST_STEPS = 500


class Round(NamedTuple):
    """Seconds of a step."""

    bare_s: float
    loop_s: float


class Measured(NamedTuple):
    """`host_s` is the time a step in which the loop's own thread works, by the thread's clock: other work on the machine is none of it."""

    rounds: list[Round]
    host_s: float


def measure(job_folder: Path, *, n_rounds: int) -> Measured:
    """Rounds on a job whose data are written, with as many rows in a batch as make a step of about STEP_S."""
    with _opened(job_folder, "short", FIRST_ROWS) as (phase, parts):
        _bare(parts, phase, steps=3)
        rows = FIRST_ROWS * max(1, round(STEP_S / _bare(parts, phase, steps=10)))
    with _opened(job_folder, "bench", rows) as (phase, parts):
        state = train(parts, phase.state(), steps=STEPS)
        _bare(parts, phase, steps=3)
        found = []
        for number in range(2, n_rounds + 2):
            phase.checkpointer.wait()
            bare_s = _bare(parts, phase, steps=STEPS)
            state = train(parts, state, steps=number * STEPS)
            found.append(Round(bare_s, _of_rows(phase.folder)))
        return Measured(found, _host_s(parts, phase, state))


@contextlib.contextmanager
def _opened(job_folder: Path, name: str, batch_size: int) -> Iterator[tuple[Phase, Parts]]:
    """All that training is done with (trainer/execute.py)."""
    run = run_of(batch_size)
    mesh = run.mesh.make()
    with contextlib.ExitStack() as opened:
        opened.enter_context(jax.set_mesh(mesh))
        phase = Phase(run, job_folder / name, job_folder, mesh)
        ledger = Ledger(phase.folder, 0, active=True, started=time.time())
        source, hosts = source_of(phase), opened.enter_context(Hosts())
        watchdog = opened.enter_context(Watchdog(run.guard.hang_s, folder=phase.folder, hosts=hosts))
        watching = recording(phase, source, ledger, watchdog, hosts, first=0, advance=lambda *_: None, profile=None)
        recorder, profiler = opened.enter_context(watching)
        yield phase, parts_of(phase, source, recorder, Measures(phase), profiler, first=0)
        phase.checkpointer.close()


def _bare(parts: Parts, phase: Phase, *, steps: int) -> float:
    """Seconds of a step when nothing is done but steps, on one batch."""
    state, batch = phase.state(), source_of(phase).next({})
    jax.block_until_ready((state, batch))
    start = time.perf_counter()
    for _ in range(steps):
        state, metrics = parts.step(state, batch)
    jax.block_until_ready((state, metrics))
    return (time.perf_counter() - start) / steps


def _host_s(parts: Parts, phase: Phase, state: Any) -> float:
    """The loop around steps that are done at once: all that it does itself, nothing of it hidden behind devices."""
    _, metrics = jax.block_until_ready(parts.step(phase.state(), source_of(phase).next({})))
    idle, first = parts._replace(step=lambda state, batch: (state, dict(metrics))), int(state.step)
    start = time.thread_time()
    train(idle, state, steps=first + HOST_STEPS)  # what it saves in the end is saved already
    return (time.thread_time() - start) / HOST_STEPS


def _of_rows(folder: Path) -> float:
    """Seconds of a step by the rows of the last round; the first of them waited for the round to begin."""
    seconds = [row["time/step_s"] for row in read_metrics(folder) if "time/step_s" in row][1 - STEPS :]
    return sum(seconds) / len(seconds)
