"""What the loop costs beside its steps, and how long a run takes to its first step."""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from launch.bench.loop_rounds import STEP_S, Measured, measure
from launch.bench.made_up_job import run_of, write_data
from launch.job.yaml import to_yaml
from launch.process.distributed import find_cluster, join_cluster
from trainer.events import read_events
from trainer.records.metrics import read_metrics


def bench_loop(args: argparse.Namespace) -> None:
    """Measure, and print a line a figure; `args` has `rounds` and `json`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder / "job")
        starts = {f"start_{cache}_s": _start_s(folder, cache) for cache in ("cold", "warm")}
        join_cluster(find_cluster(os.environ))  # the loop asks it after every step whether to stop
        found = {**figures(measure(folder / "job", n_rounds=args.rounds)), **starts}
    print(json.dumps(found) if args.json else "\n".join(lines(found)))


def figures(measured: Measured) -> dict[str, float]:
    """Medians over the rounds."""
    overheads = [each.loop_s / each.bare_s - 1 for each in measured.rounds]
    return {
        "bare_step_s": statistics.median(each.bare_s for each in measured.rounds),
        "loop_step_s": statistics.median(each.loop_s for each in measured.rounds),
        "overhead_frac": statistics.median(overheads),
        "least_frac": min(overheads),
        "most_frac": max(overheads),
        "host_s": measured.host_s,
    }


def lines(found: dict[str, float]) -> list[str]:
    """The figures for people, with the range of what was measured in brackets."""
    return [
        f"step      {1e3 * found['bare_step_s']:8.2f} ms alone, {1e3 * found['loop_step_s']:.2f} ms in the loop",
        f"overhead  {found['overhead_frac']:8.1%}     ({found['least_frac']:.1%} to {found['most_frac']:.1%})",
        f"host      {1e3 * found['host_s']:8.2f} ms a step in the loop's thread, {found['host_s'] / STEP_S:.1%} of {1e3 * STEP_S:.0f} ms",
        f"start     {found['start_cold_s']:8.1f} s from the process to the end of the first step, without a compilation cache",
        f"          {found['start_warm_s']:8.1f} s with the cache of that",
    ]


def _start_s(folder: Path, cache: str) -> float:
    """Seconds from the beginning of a process that trains to the row of its first step; the second call
    finds the first one's cache.
    """
    run_dir, job = folder / cache, folder / "job.yaml"
    shutil.copytree(folder / "job/data", run_dir / "data")
    job.write_text(to_yaml({"train": {"type": "Run", **run_of(8, steps=2).model_dump(mode="json")}}))
    env = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(folder / "cache")}
    command = [sys.executable, "-m", "launch", "run", str(job), "--dir", str(run_dir)]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], env=env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"`{' '.join(command)}` ended with code {done.returncode}: {done.stderr}")
    began = next(event["began"] for event in read_events(run_dir / "train") if event["event"] == "start")
    return next(row["time"] for row in read_metrics(run_dir / "train") if "loss/train" in row) - began
