"""Start the `meshwright` command as a user does: in a process of its own."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
TOYS = ("--import", "tests.launch.toy")
# most of the processor time of a short run is LLVM's optimising of a step that is made a few times, which
# several processes on CPUs cannot even share through the cache of programs; without any of it (level 0) a
# step takes twice as long
QUICK_COMPILE = "--xla_backend_optimization_level=1"
# for tests of what a user's own run does: the compiler as it is without flags
AS_USERS = {"XLA_FLAGS": ""}


def environment(**extra: str) -> dict[str, str]:
    """This environment with the repository importable from any folder, one CPU device, and a compiler that
    optimises little.
    """
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": QUICK_COMPILE,
        "PYTHONUNBUFFERED": "1",
        **extra,
    }


def meshwright(
    *argv: str, cwd: Path, timeout_s: float = 240, **extra: str
) -> subprocess.CompletedProcess:
    """Run the command to its end."""
    command = [sys.executable, "-P", "-m", "launch", *argv]
    return subprocess.run(
        command,
        cwd=cwd,
        env=environment(**extra),
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )


def begin(*argv: str, cwd: Path, **extra: str) -> subprocess.Popen:
    """Start the command in a process group of its own."""
    command = [sys.executable, "-P", "-m", "launch", *argv]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(
        command, cwd=cwd, env=environment(**extra), start_new_session=True, **pipes
    )


def until(condition: Callable[[], bool], what: str, timeout_s: float = 120) -> None:
    """Wait for a condition; no fixed sleeps, since a start takes 3 s or 60 s."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"waited {timeout_s} s for {what}"
        time.sleep(0.05)
