"""What the training loop costs beside its steps, and how long a run takes to its first step.

The loop of a phase and a bare one around the same compiled step take turns, because other work on the machine
comes and goes.
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from launch.bench.made_up_job import run_of, write_data
from launch.job.yaml import to_yaml
from launch.process.children import own_command, own_environment
from launch.process.distributed import find_cluster, join_cluster
from trainer.assemble import step_of
from trainer.batches.open import open_source
from trainer.cluster.watchdog import watching
from trainer.evals.measure import Measures
from trainer.events import read_events
from trainer.loop import train
from trainer.phase import Phase
from trainer.records.goodput import Ledger
from trainer.records.metrics import read_metrics
from trainer.records.recording import recording
from trainer.state import TrainState
from trainer.step import TrainStep

STEP_S = 0.05  # the length of a step that the batch size is chosen for
# The batch starts with this many rows, and grows by as many until a step is long enough.
FIRST_ROWS = 8
MOST_ROWS = 64 * FIRST_ROWS
STEPS = 20  # of a round
# More than STEPS: the host's share of a step is small, so it is averaged over more of them.
HOST_STEPS = 100


class Round(NamedTuple):
    """Median seconds of a step, in the bare loop and in the loop of a phase."""

    bare_s: float
    loop_s: float


class Measured(NamedTuple):
    """`host_s` is the time a step in which the loop's own thread works, by the thread's clock, which other
    work on the machine does not advance.
    """

    rounds: list[Round]
    host_s: float


def bench_loop(args: argparse.Namespace) -> None:
    """Measure, and print a line a figure; `args` has `rounds` and `json`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder / "job")
        # In this order: the second start finds the cache that the first one wrote.
        starts = {f"start_{cache}_s": _start_s(folder, cache) for cache in ("cold", "warm")}
        # After every step the loop asks the cluster whether to stop.
        join_cluster(find_cluster(os.environ))
        numbers = {**figures(measure(folder / "job", n_rounds=args.rounds)), **starts}
    print(json.dumps(numbers) if args.json else "\n".join(lines(numbers)))


def figures(measured: Measured) -> dict[str, float]:
    """Medians over the rounds, and the range of the overhead."""
    overheads = [each.loop_s / each.bare_s - 1 for each in measured.rounds]
    return {
        "bare_step_s": statistics.median(each.bare_s for each in measured.rounds),
        "loop_step_s": statistics.median(each.loop_s for each in measured.rounds),
        "overhead_frac": statistics.median(overheads),
        "least_frac": min(overheads),
        "most_frac": max(overheads),
        "host_s": measured.host_s,
    }


def lines(numbers: dict[str, float]) -> list[str]:
    """The figures for people, with the range of what was measured in brackets."""
    alone, in_loop = 1e3 * numbers["bare_step_s"], 1e3 * numbers["loop_step_s"]
    overhead_range = f"({numbers['least_frac']:.1%} to {numbers['most_frac']:.1%})"
    share = f"{numbers['host_s'] / STEP_S:.1%} of {1e3 * STEP_S:.0f} ms"
    cold = "s from the process to the end of the first step, without a compilation cache"
    return [
        f"step      {alone:8.2f} ms alone, {in_loop:.2f} ms in the loop",
        f"overhead  {numbers['overhead_frac']:8.1%}     {overhead_range}",
        f"host      {1e3 * numbers['host_s']:8.2f} ms a step in the loop's thread, {share}",
        f"start     {numbers['start_cold_s']:8.1f} {cold}",
        f"          {numbers['start_warm_s']:8.1f} s with the cache of that",
    ]


def _start_s(folder: Path, cache: str) -> float:
    """Seconds from the start of a process that trains to the row of its first step; the second call finds
    the compilation cache of the first one.
    """
    run_dir = folder / cache
    job = folder / "job.yaml"
    # Each start has a folder of its own, else the second would resume the first.
    shutil.copytree(folder / "job/data", run_dir / "data")
    job.write_text(
        to_yaml({"train": {"type": "Run", **run_of(8, steps=2).model_dump(mode="json")}})
    )
    # The user's own cache would make the cold start warm.
    cache_at = {"JAX_COMPILATION_CACHE_DIR": str(folder / "cache")}
    env = {**os.environ, **own_environment(), **cache_at}
    command = own_command(["run", str(job), "--dir", str(run_dir)])
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(
            f"`{' '.join(command)}` ended with code {done.returncode}: {done.stderr}"
        )
    # `began` is the start of the process by the system's clock, so imports count.
    began = next(
        event["began"] for event in read_events(run_dir / "train") if event["event"] == "start"
    )
    rows = read_metrics(run_dir / "train")
    first_step = next(row["time"] for row in rows if "loss/train" in row)
    return first_step - began


def measure(job_folder: Path, *, n_rounds: int) -> Measured:
    """Rounds on a job whose data are written, with as many rows in a batch as make a step of about STEP_S.

    Raises:
        ValueError: even the largest batch is too fast on this machine.
    """
    for rows in range(FIRST_ROWS, MOST_ROWS + 1, FIRST_ROWS):
        with _opened(job_folder, f"rows{rows}", rows) as (phase, train_phase):
            step = step_of(phase)
            state = train_phase(step=step, state=phase.state(), steps=STEPS)
            # 0.8: rows grow by FIRST_ROWS at a time, and a step a fifth too short is near enough.
            if _bare_step_s(step, phase) > 0.8 * STEP_S:
                return _measured(train_phase, step, phase, state, n_rounds)
    most = f"a step of {MOST_ROWS} rows takes less than {0.8 * STEP_S:g} s here"
    raise ValueError(f"{most}; this bench is for slower machines, use `bench train`")


def _measured(
    train_phase: Callable[..., TrainState],
    step: TrainStep,
    phase: Phase,
    state: TrainState,
    n_rounds: int,
) -> Measured:
    rounds = []
    for number in range(2, n_rounds + 2):  # the steps of round 1 were made by `measure`
        # else the save of the round before would slow this one
        phase.checkpointer.wait()
        bare_s = _bare_step_s(step, phase)
        calls: list[float] = []
        noting = _noting_calls(step, calls)
        # `train` runs until the state has made `steps` steps: round n ends at n * STEPS.
        state = train_phase(step=noting, state=state, steps=number * STEPS)
        rounds.append(Round(bare_s, _median_gap(calls)))
    return Measured(rounds, _host_s(train_phase, step, phase, state))


def _noting_calls(step: Callable[..., Any], calls: list[float]) -> Callable[..., Any]:
    """`step`, with the time of each call noted in `calls`.

    The loop calls it when the step before last has ended, so two calls are one step's time apart.
    """

    def noting(state: Any, batch: Any) -> Any:
        calls.append(time.perf_counter())
        return step(state, batch)

    return noting


def _median_gap(calls: list[float]) -> float:
    """Median seconds between calls; the first two do not count, since they found the device idle."""
    return float(np.median(np.diff(calls[2:])))


@contextlib.contextmanager
def _opened(
    job_folder: Path, name: str, batch_size: int
) -> Iterator[tuple[Phase, Callable[..., TrainState]]]:
    """A phase and its loop, (step=, state=, steps=) -> state, as trainer/execute.py opens them."""
    run = run_of(batch_size)
    mesh = run.mesh.make()
    with contextlib.ExitStack() as opened:
        opened.enter_context(jax.set_mesh(mesh))
        phase = Phase(run, job_folder / name, job_folder, mesh)
        ledger = Ledger(phase.folder, 0, active=True, started=time.time())
        source = open_source(phase)
        watchers = opened.enter_context(watching(run.health.hang_s, phase.folder))
        records = recording(
            phase, source, ledger, *watchers, first=0, advance=lambda *_: None, profile=None
        )
        recorder = opened.enter_context(records)
        yield phase, partial(train, phase, source, recorder, Measures(phase))
        phase.checkpointer.close()


def _bare_step_s(step: TrainStep, phase: Phase) -> float:
    """Seconds of a step when nothing else is done, on one batch. Each step is waited for while the next one
    runs, as the loop does.
    """
    state = phase.state()
    batch = open_source(phase).next(dict)
    jax.block_until_ready((state, batch))
    calls: list[float] = []
    noting = _noting_calls(step, calls)
    before = None
    for _ in range(STEPS):
        state, metrics = noting(state, batch)
        # Not `metrics`: after waiting for the step just started the device would be idle.
        jax.block_until_ready(before)
        before = metrics
    return _median_gap(calls)


def _host_s(
    train_phase: Callable[..., TrainState], step: TrainStep, phase: Phase, state: TrainState
) -> float:
    """Seconds of CPU time that the loop's own thread needs for a step, measured around steps that sleep."""
    _, metrics = jax.block_until_ready(step(phase.state(), open_source(phase).next(dict)))

    def idle(state: Any, batch: Any) -> tuple[Any, dict[str, Any]]:
        time.sleep(STEP_S)
        # A copy, since the loop may change the metrics that it is given.
        return state, dict(metrics)

    # CPU time of this thread alone; sleeping does not count.
    start = time.thread_time()

    # The state's step never advances, so `train` finds it saved already and saves nothing.
    train_phase(step=idle, state=state, steps=int(state.step) + HOST_STEPS)
    return (time.thread_time() - start) / HOST_STEPS
