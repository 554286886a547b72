"""One life of a soaked run: the command on two processes from its start to its end, and what is seen of it
from outside.
"""

import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from tests.end_to_end.job import COMMAND, children, last_step, rows, saved, soon
from tests.launch.command import environment, until

PROCESSES = 2
START_S = 600.0  # until a life's first step, on a busy machine
# until it has noticed a fault: 200 s for a hang in a save, which may take ten times as long as a step
END_S = 260.0


class Life(NamedTuple):
    """`began` is Unix time, as metrics.jsonl has it."""

    job: Path
    process: subprocess.Popen
    began: float

    def workers(self) -> dict[int, int]:
        """Process number -> its process id."""
        return {
            int(_variables_of(pid)["JAX_PROCESS_ID"]): pid for pid in children(self.process.pid)
        }

    def first_row(self) -> tuple[int, float] | None:
        """Step and time of the first step of this life."""
        return next(
            ((row["step"], row["time"]) for row in rows(self.job) if row["time"] >= self.began),
            None,
        )

    def ended(self) -> bool:
        """Whether the command has come to its end."""
        return self.process.poll() is not None

    def wait_for_steps(self, n: int) -> bool:
        """Until this life has made n steps; False if it ended before."""
        # asked 20 times a second: `first_row` reads all metrics, and the life needs the processor to start
        until(
            lambda: self.ended() or self.first_row() is not None,
            "the first step of a life",
            START_S,
        )
        if self.first_row() is None:
            return False
        last = self.first_row()[0] + n - 1
        soon(lambda: self.ended() or last_step(self.job) >= last, f"{n} steps", START_S)
        return not self.ended()

    def wait_for_checkpoints(self, n: int) -> bool:
        """Until n of them are whole; False if this life ended before."""
        soon(lambda: self.ended() or len(saved(self.job)) >= n, f"{n} checkpoints", START_S)
        return not self.ended()

    def wait_for_end(self) -> int | None:
        """The exit code; None if the life does not end in time, which is then ended."""
        try:
            return self.process.wait(END_S)
        except subprocess.TimeoutExpired:
            return None


def begin(job: Path) -> Life:
    """Start or go on. Everything that is printed goes to lives.log."""
    command = [
        sys.executable,
        "-m",
        "launch",
        *COMMAND,
        "--import",
        "tests.soak.stuck",
        "--on",
        f"local:{PROCESSES}",
    ]
    env = environment(JAX_PLATFORMS="cpu")
    began = time.time()
    with (job / "lives.log").open("a") as log:
        process = subprocess.Popen(
            command, cwd=job, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    return Life(job, process, began)


def _variables_of(pid: int) -> dict[str, str]:
    """What a process was started with."""
    words = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    return dict(word.partition("=")[::2] for word in words if word)
