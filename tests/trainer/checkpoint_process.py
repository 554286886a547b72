"""A process that saves checkpoints: alone, until it is killed, or as one of several.

`python -m tests.trainer.checkpoint_process saving FOLDER FIRST_STEP` and `… cluster FOLDER PROCESS
PROCESSES PORT`.
"""

import json
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    }

import jax
import numpy as np
from jax.experimental import multihost_utils

from model.mesh import make_mesh
from tests.trainer.saved_states import POSITION, RUN, Events, like, state_on
from trainer.checkpoints.checkpointer import Checkpointer, Checkpoints
from trainer.checkpoints.stored import arrays_of
from trainer.fingerprints import fingerprints

SMALL = 2**18  # bytes; a shard of LARGE is larger
LARGE = {"w_DF": np.random.default_rng(1).normal(size=(1024, 512)).astype(np.float32)}


def saving(folder: Path, first: int) -> None:
    """Save step after step until somebody ends it."""
    mesh = make_mesh(jax.devices(), fsdp=2)
    checkpointer = Checkpointer(folder, Checkpoints(every_steps=1, keep=2))
    with jax.set_mesh(mesh):
        for step in range(first, first + 1000):
            checkpointer.save(state_on(mesh, step, LARGE), {**POSITION, "rows": 8 * step}, RUN)
            checkpointer.poll(step)
            print("asked for", step, flush=True)


def cluster(folder: Path, process: int, n: int, port: int) -> None:
    """Save, meet a folder that cannot be written, save again, set aside what is damaged, restore; what came
    of it as JSON.
    """
    jax.distributed.initialize(f"127.0.0.1:{port}", n, process)
    mesh, events = make_mesh(jax.devices(), fsdp=2, data=n), Events()
    checkpointer = Checkpointer(folder, Checkpoints(every_steps=2, keep=3), event=events)
    found: dict = {"latest_at_first": checkpointer.verify_latest()}

    def save(step: int) -> None:
        checkpointer.save(state_on(mesh, step), {**POSITION, "rows": 8 * step}, RUN)

    with jax.set_mesh(mesh):
        for step in (2, 4):
            save(step)
        checkpointer.wait()
        found["after_two"] = checkpointer.verify_latest()
        away = folder / "away"
        _in_first(
            process,
            lambda: (
                checkpointer.folder.rename(away),
                checkpointer.folder.write_text("in the way"),
            ),
        )
        save(6)
        while not events.of("save_failed"):
            checkpointer.poll(6)
        found["failed"] = [step for step, _ in events.of("save_failed")]
        _in_first(process, lambda: (checkpointer.folder.unlink(), away.rename(checkpointer.folder)))
        step = 7
        while not checkpointer.due(step):
            step += 2  # never a multiple of 2: only the save that is owed is due
            checkpointer.poll(step)
        for i in range(n):
            # One of them alone cannot write its files: the others learn of it at once. Orbax's own time-out
            # is longer than the test's.
            resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL if i == process else -1, -1))
            checkpointer.save(state_on(mesh, 20 + i, LARGE), POSITION, RUN)
            while len(events.of("save_failed")) < 2 + i:
                checkpointer.poll(20 + i)
            resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
        save(8)
        checkpointer.wait()
        found["after_retry"] = checkpointer.verify_latest()
        _in_first(process, lambda: (checkpointer.folder / "8/position/metadata").write_text("{"))
    again = Checkpointer(folder, Checkpoints(every_steps=2), event=events)
    with jax.set_mesh(mesh):
        step, state = again.restore_newest(like(mesh))
        found |= {
            "newest": step,
            "damaged": [s for s, _ in events.of("damaged")],
            "sums": fingerprints(arrays_of(state)),
        }
        found["expected"] = fingerprints(arrays_of(state_on(mesh, step)))
        # a later phase of the same processes
        again.save(state_on(mesh, 10), POSITION, RUN)
        again.close()
        found["of_another"] = again.verify_latest()
    checkpointer.close()
    print("FOUND", json.dumps(found), flush=True)


def _in_first(process: int, act: Callable[[], Any]) -> None:
    """Between two moments at which all processes meet."""
    multihost_utils.sync_global_devices("before")
    if process == 0:
        act()
    multihost_utils.sync_global_devices("after")


if __name__ == "__main__":
    kind, folder, *numbers = sys.argv[1:]
    {"saving": saving, "cluster": cluster}[kind](Path(folder), *map(int, numbers))
