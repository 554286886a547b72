"""A process that is killed, frozen, stuck or at fault ends the others soon, by name and with its code. Real
processes, real signals.
"""

import os
import re
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.launch.command import begin, until

COMMAND = ("run", "turns.yaml", "--import", "tests.end_to_end.turns")


class Group:
    """Processes that take steps together; `pids` by process number."""

    def __init__(self, n: int, folder: Path, **settings: float):
        (folder / "turns.yaml").write_text("train: {type: Turns}\n")
        more = [
            word for name, value in settings.items() for word in ("--set", f"train.{name}={value}")
        ]
        self.n, self.logs, self.phase = n, folder / "runs/turns/logs", folder / "runs/turns/train"
        self.launcher = begin(*COMMAND, *more, "--on", f"local:{n}", cwd=folder)
        self.until(lambda: all(self.step(i) > 5 for i in range(n)), "steps of all")
        children = (
            Path(f"/proc/{self.launcher.pid}/task/{self.launcher.pid}/children").read_text().split()
        )
        self.pids = {int(_variable(pid, "JAX_PROCESS_ID")): int(pid) for pid in children}
        before = [self.step(i) for i in range(n)]
        self.until(lambda: all(self.step(i) > before[i] + 100 for i in range(n)), "posts of all")

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for it while the run lives."""
        until(lambda: self.launcher.poll() is not None or condition(), what)
        assert self.launcher.poll() is None, self.launcher.communicate()

    def step(self, process: int) -> int:
        """The last step that a process has made."""
        path = self.phase / f"step-{process}"
        return int(path.read_text() or 0) if path.exists() else 0

    def end(self) -> "End":
        """Wait for the end; no process may be left."""
        out, err = self.launcher.communicate(timeout=120)
        assert not [pid for pid in self.pids.values() if Path(f"/proc/{pid}").exists()]
        logs = {i: (self.logs / f"process-{i}.log").read_text() for i in range(1, self.n)}
        return End(self.launcher.returncode, err, {0: out, **logs})


class End(NamedTuple):
    """What the launcher said, and what each process said."""

    code: int
    launcher: str
    said: dict[int, str]


def _variable(pid: str, name: str) -> str:
    pairs = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return next(pair.partition("=")[2] for pair in pairs if pair.startswith(f"{name}="))


@pytest.fixture
def group(tmp_path):
    """Starts a group, and leaves no process of it."""
    started = []

    def start(n: int, **settings: float) -> Group:
        started.append(Group(n, tmp_path, **settings))
        return started[0]

    yield start
    for each in started:
        each.launcher.kill()  # the others die with it
        each.launcher.communicate()


def test_slow_and_wrong_processes_are_named_and_a_killed_one_ends_the_others(group):
    three = group(3)
    (three.phase / "slow-1").touch()
    three.until((three.phase / "straggler-0").exists, "a straggler")
    assert (three.phase / "straggler-0").read_text().startswith("process 1 holds the others up")
    (three.phase / "slow-1").unlink()
    (three.phase / "flip-2").touch()
    three.until(
        lambda: all((three.phase / f"differs-{i}").exists() for i in range(3)), "a differing copy"
    )
    assert re.match(
        r"x differs on device \d+ of process 2 from its 2 other copies",
        (three.phase / "differs-0").read_text(),
    )
    os.kill(three.pids[2], signal.SIGUSR1)
    three.until(
        lambda: "Current thread" in (three.logs / "process-2.log").read_text(), "stacks on demand"
    )
    step = three.step(2)
    three.until(lambda: three.step(2) > step, "a step after it")
    os.kill(three.pids[1], signal.SIGKILL)
    end = three.end()
    assert end.code == 75 and "process 1 was killed by SIGKILL" in end.launcher
    for i in (0, 2):
        assert (
            "process 1 has not answered for" in end.said[i]
            and "start the same command again" in end.said[i]
        )


@pytest.mark.parametrize("stuck", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_stuck_process_ends_all_with_stacks_and_is_named(group, stuck):
    two = group(2, limit_s=5.0)
    (two.phase / f"stuck-{stuck}").touch()
    end = two.end()
    assert end.code == 75
    for said in end.said.values():
        assert (
            f"nothing has moved for 5 s: process {stuck} at step" in said
            or f", process {stuck} at step" in said
        )
    assert "_obey" in (two.phase / f"stacks-{stuck}.txt").read_text()
    assert "_obey" in end.said[stuck] and "File" in end.said[stuck]


@pytest.mark.parametrize("failing", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_fault_of_one_process_is_told_by_all_with_its_code(group, failing):
    two = group(2)
    (two.phase / f"fails-{failing}").touch()
    end = two.end()
    assert end.code == 2, "the users's to mend: no scheduler shall start it again"
    assert "shard-7: no such file" in end.said[failing]
    assert f"process {failing} failed: shard-7: no such file" in end.said[1 - failing]
    assert all("Traceback" not in said for said in end.said.values())


@pytest.mark.slow
@pytest.mark.parametrize(("n", "lost"), [(2, 1), (3, 2), (2, 0), (3, 0)])
def test_a_frozen_process_is_named_and_killed(group, n, lost):
    processes = group(n)
    os.kill(processes.pids[lost], signal.SIGSTOP)
    end = processes.end()
    assert end.code == 75 and f"process {lost} does not answer and is killed" in end.launcher
    for i in range(n):
        assert (
            i == lost
            or f"process {lost}" in end.said[i]
            and "has not answered for 20 s" in end.said[i]
        )


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 3])
def test_the_coordinator_is_named_too(group, n):
    processes = group(n)
    os.kill(processes.pids[0], signal.SIGKILL)
    end = processes.end()
    assert end.code == 75 and "process 0 was killed by SIGKILL" in end.launcher
    assert all("process 0, which coordinates, is gone" in end.said[i] for i in range(1, n))


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)],
)
def test_a_signal_to_one_process_saves_the_same_step_everywhere_and_a_second_one_ends_it_at_once(
    group, number, code
):
    two = group(2, save_s=60)
    os.kill(two.pids[1], number)
    two.until(lambda: "is saving" in (two.logs / "process-1.log").read_text(), "the agreed step")
    steps = {two.step(i) for i in range(2)}
    assert len(steps) == 1, "all stop after the same step"

    def again() -> bool:
        with suppress(ProcessLookupError):  # it may have gone between two looks at its log
            os.kill(two.pids[1], number)
        return "stopped at once by a second signal" in (two.logs / "process-1.log").read_text()

    until(again, "an end at once")
    end = two.end()
    assert end.code == code
