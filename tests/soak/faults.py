"""The faults of a soak: how each is inflicted on a life, which exit codes may follow, and what is damaged
on the disk afterwards.
"""

import os
import random
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.end_to_end.job import last_step, phase, saved, soon, unfinished
from tests.soak.life import END_S, START_S, Life
from tests.soak.stuck import HANG

LOST, STOPPED = 75, 143  # exit codes that say: start the same command again


class Fault(NamedTuple):
    """`strike(life, draw)` inflicts it on a run that is training; `damage(job, draw)` follows when all
    processes are gone.

    `codes` are those the run may end with; none if it is to go on.
    """

    strike: Callable[[Life, random.Random], None]
    damage: Callable[[Path, random.Random], None] | None = None
    codes: tuple[int, ...] = (LOST,)


def send(number: int, *processes: int) -> Callable[[Life, random.Random], None]:
    """A signal to these processes of the run."""

    def strike(life: Life, draw: random.Random) -> None:
        pids = life.workers()
        for process in processes:
            if process in pids:  # it may just have ended by itself
                os.kill(pids[process], number)

    return strike


def kill_in_save(life: Life, draw: random.Random) -> None:
    """One of the processes, the moment that a new folder of a save appears."""
    left = unfinished(life.job)
    soon(lambda: life.ended() or bool(unfinished(life.job) - left), "a save", START_S)
    send(signal.SIGKILL, draw.randrange(2))(life, draw)


def fill_disk(life: Life, draw: random.Random) -> None:
    """No process may write a file as large as a checkpoint's, until a save has failed for it: what a full
    disk does, without root.
    """
    pids = life.workers().values()
    newest = saved(life.job)[-1]
    limit = max(path.stat().st_size for path in files(life.job, newest)) // 2
    others = [path.stat().st_size for path in phase(life.job).glob("*") if path.is_file()]
    assert limit > 1.2 * max(others), (
        f"files of a checkpoint must be larger than logs: {limit}, {max(others)}"
    )
    for pid in pids:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    every = newest - saved(life.job)[-2]
    failed = last_step(life.job) // every * every + every  # the next save
    soon(
        lambda: life.ended() or last_step(life.job) >= failed + every // 2,
        "steps without room for a save",
        END_S,
    )
    assert failed not in saved(life.job), f"step {failed} was saved on a full disk"
    for pid in life.workers().values():
        resource.prlimit(
            pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        )
    soon(
        lambda: life.ended() or saved(life.job)[-1] > newest,
        "a save when there is room again",
        END_S,
    )


def flip_bit(job: Path, draw: random.Random) -> None:
    """One bit of a large file of the newest checkpoint."""
    path = large_file(job, draw)
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def cut_short(job: Path, draw: random.Random) -> None:
    """A large file of the newest checkpoint loses its end."""
    path = large_file(job, draw)
    os.truncate(path, draw.randrange(path.stat().st_size))


def delete(job: Path, draw: random.Random) -> None:
    """A large file of the newest checkpoint is gone."""
    large_file(job, draw).unlink()


def files(job: Path, step: int) -> list[Path]:
    """Those of a checkpoint, the largest first."""
    found = [path for path in (phase(job) / f"checkpoints/{step}").rglob("*") if path.is_file()]
    return sorted(found, key=lambda path: (-path.stat().st_size, path))


def large_file(job: Path, draw: random.Random) -> Path:
    """One of the four largest of the newest checkpoint: they hold arrays."""
    return draw.choice(files(job, saved(job)[-1])[:4])


FAULTS = {
    "kill a worker": Fault(send(signal.SIGKILL, 1)),
    "kill the coordinator": Fault(send(signal.SIGKILL, 0)),
    "kill both": Fault(send(signal.SIGKILL, 0, 1)),
    "kill during a save": Fault(kill_in_save),
    "freeze a worker": Fault(send(signal.SIGSTOP, 1)),
    "hang in Python": Fault(send(HANG, 1)),
    "SIGTERM to one": Fault(send(signal.SIGTERM, 1), codes=(STOPPED,)),
    "kill, flip a bit": Fault(send(signal.SIGKILL, 1), flip_bit),
    "kill, cut a file": Fault(send(signal.SIGKILL, 1), cut_short),
    "kill, delete a file": Fault(send(signal.SIGKILL, 0), delete),
    "full disk": Fault(fill_disk, codes=()),
}


def drawn(n: int, draw: random.Random) -> list[str]:
    """Names of n faults: every kind once in an order of its own, then again."""
    found: list[str] = []
    while len(found) < n:
        found += draw.sample(sorted(FAULTS), len(FAULTS))
    return found[:n]
