"""How fast checkpoints are saved, restored and hashed here, beside what the disk does in the same minutes,
and what the step loop loses.
"""

import itertools
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from model.sharding import named
from trainer.checkpoints.checkpointer import Checkpointer, Checkpoints
from trainer.checkpoints.manifest import files_of, problem
from trainer.state import TrainState

# 64 MiB: large enough that the cost of a system call does not count.
BLOCK_BYTES = 2**26
# Columns of each matrix; the rows follow from the size that is asked for.
WIDTH = 4096
# Steps timed before a save; their median is the usual time of a step.
STEPS_BEFORE = 8


def state_of_size(gigabytes: float, mesh: jax.sharding.Mesh) -> TrainState:
    """Random parameters and two moments, four matrices each."""
    # 12 arrays (4 matrices, 2 moments of each) of 4-byte numbers. Rows are a multiple of the
    # devices, because a shard cannot be uneven.
    rows = max(int(gigabytes * 1e9 / (12 * 4 * WIDTH)) // mesh.size, 1) * mesh.size
    layout = named(mesh, "DF", (rows, WIDTH), at_rest=True)
    # out_shardings: every device draws its own shard; else one device would draw the whole array.
    draw = jax.jit(
        lambda key: jax.random.normal(key, (rows, WIDTH), jnp.float32), out_shardings=layout
    )
    keys = iter(jax.random.split(jax.random.key(0), 12))
    stacks: list[dict[str, Any]] = [
        {f"w{i}_DF": draw(next(keys)) for i in range(4)} for _ in range(3)
    ]
    step = jax.device_put(jnp.int32(0), named(mesh, ""))
    return TrainState(step, stacks[0], {}, {"mu": stacks[1], "nu": stacks[2]}, jax.random.key(1))


def measure(
    folder: Path, *, gigabytes: float, n_rounds: int, mesh: jax.sharding.Mesh
) -> list[dict[str, float]]:
    """Figures of each round: seconds, and bytes a second of the disk itself. Call under `jax.set_mesh`.

    The folder is made and removed. Before files are read they are dropped from the page cache, as if the
    machine had restarted.
    """
    state = state_of_size(gigabytes, mesh)
    # What a starting process has when it restores: shapes and layouts without arrays.
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    n_bytes = sum(x.nbytes for x in jax.tree.leaves((state.trainable, state.opt_state)))
    # A checkpointer saves each step once, so every round has a step of its own.
    steps = itertools.count(1)
    step = step_of(mesh)
    rounds = []
    for _ in range(n_rounds):
        numbers = {"bytes": float(n_bytes), **disk_speed(folder, n_bytes)}
        state, save_numbers = _save_in_a_loop(folder / "run", state, steps, step)
        numbers |= save_numbers | _read_back(folder / "run", like)
        rounds.append(numbers)
        shutil.rmtree(folder / "run")
    shutil.rmtree(folder)

    return rounds


def disk_speed(folder: Path, n_bytes: int) -> dict[str, float]:
    """Bytes a second of one file: of plain writes with an fsync at the end, and of reads from the disk.

    The file is read twice: block by block into one small buffer, and into memory of the file's size, which is
    what restoring a state needs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "plain"
    block = memoryview(os.urandom(BLOCK_BYTES))  # random, because some disks compress
    # At least one block, for states below 64 MiB.
    blocks = max(n_bytes // BLOCK_BYTES, 1)

    def write() -> None:
        # Unbuffered, so that each write is one system call.
        with file.open("wb", buffering=0) as out:
            for _ in range(blocks):
                out.write(block)
            # Without fsync the figure is that of the page cache, several times the disk's.
            os.fsync(out.fileno())

    speeds = {"disk_write_bytes_per_s": blocks * BLOCK_BYTES / _seconds(write)}
    # The second is slower by what the system needs to provide fresh pages.
    for name, buffer_bytes in (("disk_read", BLOCK_BYTES), ("disk_hold", blocks * BLOCK_BYTES)):
        forget([file])
        read_s = _seconds(partial(_read, file, buffer_bytes))
        speeds[f"{name}_bytes_per_s"] = blocks * BLOCK_BYTES / read_s
    file.unlink()

    return speeds


def _read(file: Path, buffer_bytes: int) -> None:
    """Read a file into a fresh buffer, from the buffer's start again whenever it is full."""
    # np.empty touches no page: the first read pays for them, as a restore does.
    buffer = memoryview(np.empty(buffer_bytes, np.uint8))
    with file.open("rb", buffering=0) as source:
        for first in range(0, file.stat().st_size, BLOCK_BYTES):
            start = first % buffer_bytes
            source.readinto(buffer[start : start + BLOCK_BYTES])


def forget(files: list[Path]) -> None:
    """Drop files from the page cache (Linux); elsewhere they are only synced."""
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        # DONTNEED drops clean pages only, so what is not yet on the disk is written first.
        os.fsync(descriptor)
        # macOS has no such call.
        if hasattr(os, "posix_fadvise"):
            # Offset 0 and length 0 mean the whole file.
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def _save_in_a_loop(
    folder: Path, state: TrainState, steps: Iterator[int], step: Callable[[], None]
) -> tuple[TrainState, dict[str, float]]:
    """A loop with one save: how long the save itself held it up, and how much longer its other steps took
    until all was hashed.
    """
    events: dict[str, Mapping[str, float]] = {}

    def note(name: str, step: int, **fields: Any) -> None:
        events[name] = fields

    checkpointer = Checkpointer(folder, Checkpoints(every_steps=1), event=note)

    state = state._replace(step=jnp.int32(next(steps)))
    jax.block_until_ready(state)

    usual_s = statistics.median(_seconds(step) for _ in range(STEPS_BEFORE))
    blocked_s = _seconds(lambda: checkpointer.save(state, {}, {}))
    n, began = 0, time.perf_counter()
    while "saved" not in events:  # the event comes after the hashes
        step()
        # The training loop does this between steps; a finished save is reported from here.
        checkpointer.poll(n)
        n += 1

    # what n steps took beyond n usual ones, until the hashes were written
    slower_s = time.perf_counter() - began - n * usual_s
    checkpointer.close()
    save_numbers = {name: events["saved"][name] for name in ("save_s", "hash_s", "peak_host_bytes")}

    return state, {
        **save_numbers,
        "blocked_s": blocked_s,
        # By chance the steps beside a save may even be faster; a negative cost means nothing.
        "slower_s": max(slower_s, 0.0),
        "step_s": usual_s,
    }


def step_of(mesh: jax.sharding.Mesh) -> Callable[[], None]:
    """A made-up step: products of matrices that take a CPU a few hundredths of a second."""
    x_DF = jax.device_put(
        jnp.ones((512 * mesh.shape["fsdp"], 512)), named(mesh, "DF", at_rest=True)
    )
    w_FF = jnp.ones((512, 512)) / 512
    # tanh keeps the values bounded over the eight products.
    multiplied = jax.jit(lambda x: jax.lax.fori_loop(0, 8, lambda _, y: jnp.tanh(y @ w_FF), x))
    return lambda: jax.block_until_ready(multiplied(x_DF))


def _read_back(folder: Path, like: TrainState) -> dict[str, float]:
    """Seconds of restoring, fingerprints included, and of comparing all hashes, both from the disk."""
    # "off": the comparison of hashes is timed by itself below.
    checkpointer = Checkpointer(folder, Checkpoints(every_steps=1, verify="off"))
    step = checkpointer.verify_latest()
    step_folder = checkpointer.folder / str(step)

    # Forgotten before each reading, else the second would come from the page cache.
    files = list(files_of(step_folder).values())
    forget(files)
    restore_s = _seconds(lambda: jax.block_until_ready(checkpointer.restore(step, like)))
    forget(files)
    verify_s = _seconds(lambda: problem(step_folder, "full"))
    checkpointer.close()
    return {"restore_s": restore_s, "verify_s": verify_s}


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def figures(rounds: list[dict[str, float]], *, interval_s: float) -> dict[str, float]:
    """Medians over the rounds, and what follows from them; `interval_s` is the time between two saves."""
    medians = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    # The ratio of each round, then the median: a round's disk and save met the same other work.
    write_frac = statistics.median(
        each["bytes"] / each["save_s"] / each["disk_write_bytes_per_s"] for each in rounds
    )
    read_frac, hold_frac = (
        statistics.median(
            each["bytes"] / each["restore_s"] / each[f"disk_{name}_bytes_per_s"] for each in rounds
        )
        for name in ("read", "hold")
    )
    return {
        **medians,
        "save_frac_of_disk": write_frac,
        "restore_frac_of_disk": read_frac,
        "restore_frac_of_hold": hold_frac,
        "stall_frac": (medians["blocked_s"] + medians["slower_s"]) / interval_s,
    }


def lines(numbers: dict[str, float], *, interval_s: float) -> list[str]:
    """The figures for people, one a line."""
    size = numbers["bytes"]
    of_disk, of_memory = numbers["restore_frac_of_disk"], numbers["restore_frac_of_hold"]

    def row(name: str, seconds: float, note: str = "") -> str:
        return f"{name:9s}{seconds:9.2f} s {size / seconds / 1e6:9,.0f} MB/s{note}"

    return [
        f"state    {size / 1e9:9.2f} GB",
        row(
            "write",
            size / numbers["disk_write_bytes_per_s"],
            "   plain file and fsync, the disk's own",
        ),
        row(
            "save",
            numbers["save_s"],
            f"   {numbers['save_frac_of_disk']:.0%} of the disk, until it is committed, fsync included",
        ),
        f"blocked  {numbers['blocked_s']:9.2f} s   of the step loop by the save itself",
        f"slower   {numbers['slower_s']:9.2f} s   of the steps beside it, until all was hashed",
        f"stall    {numbers['stall_frac']:9.1%}     of the loop with a save every {interval_s:g} s",
        row("hash", numbers["hash_s"], "   in the background, after the commit"),
        row(
            "read",
            size / numbers["disk_read_bytes_per_s"],
            "   plain file through one small buffer, the disk's own",
        ),
        row(
            "hold", size / numbers["disk_hold_bytes_per_s"], "   plain file into memory of its size"
        ),
        row(
            "restore",
            numbers["restore_s"],
            f"   {of_disk:.0%} and {of_memory:.0%} of those, fingerprints compared",
        ),
        row("verify", numbers["verify_s"], "   all hashes compared, before a restore"),
        f"memory   {numbers['peak_host_bytes'] / 1e9:9.2f} GB more at most while it was saved",
    ]
