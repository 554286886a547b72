"""Laws of trouble with the disk: training goes on, the failure is said and counted, and the checkpoint
comes as soon as it can.
"""

import json
import multiprocessing
import os
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
import pytest

from data_pipeline.files import OutputError
from tests.examples import ONE_DEVICE, under
from tests.launch.command import environment, until
from tests.trainer.saved_states import POSITION, RUN, Events, assert_same_bits, like, state_on
from trainer.checkpoints import checkpointer as checkpoint
from trainer.checkpoints.checkpointer import Checkpointer, Checkpoints
from trainer.checkpoints.stored import arrays_of

disk_usage = shutil.disk_usage
LARGE = {"w_DF": np.random.default_rng(0).normal(size=(512, 512)).astype(np.float32)}


@contextmanager
def a_file_in_the_way(folder: Path) -> Iterator[None]:
    folder.rename(folder.with_name("away"))
    folder.write_text("in the way")
    yield
    folder.unlink()
    folder.with_name("away").rename(folder)


@contextmanager
def no_permission(folder: Path) -> Iterator[None]:
    folder.chmod(0o555)
    me = os.geteuid()
    if me == 0:  # root may write everywhere
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(me)
        folder.chmod(0o755)


def save(checkpointer: Checkpointer, step: int) -> None:
    checkpointer.save(state_on(under(ONE_DEVICE), step), {**POSITION, "rows": 8 * step}, RUN)


def poll_until(
    checkpointer: Checkpointer, step: int, condition: Callable[[], bool], what: str
) -> dict[str, float]:
    """Polls as a loop does; the numbers of all polls."""
    numbers: dict[str, float] = {}
    until(lambda: numbers.update(checkpointer.poll(step)) or condition(), what)
    return numbers


@pytest.mark.parametrize(
    "trouble, why",
    [(a_file_in_the_way, "a file has that name"), (no_permission, "permission denied")],
)
def test_a_save_that_fails_is_said_at_a_next_step_and_succeeds_when_it_can(trouble, why, tmp_path):
    events, mesh = Events(), under(ONE_DEVICE)
    checkpointer = Checkpointer(tmp_path, Checkpoints(every_steps=100), event=events)
    with jax.set_mesh(mesh):
        save(checkpointer, 100)
        assert (
            poll_until(checkpointer, 101, lambda: bool(events.of("saved")), "the first save")[
                "checkpoint/failed"
            ]
            == 0.0
        )
        with trouble(checkpointer.folder):
            save(checkpointer, 200)
            assert poll_until(
                checkpointer, 201, lambda: bool(events.of("save_failed")), "the failure"
            ) == {"checkpoint/failed": 1.0}
            assert not checkpointer.due(201), "not again at once"
            poll_until(checkpointer, 202, lambda: checkpointer.due(202), "the next try")
            save(checkpointer, 202)
            poll_until(
                checkpointer, 203, lambda: len(events.of("save_failed")) == 2, "the next failure"
            )
        poll_until(checkpointer, 204, lambda: checkpointer.due(204), "the try after that")
        save(checkpointer, 204)
        numbers = poll_until(checkpointer, 205, lambda: len(events.of("saved")) == 2, "the save")
        found = [(step, what["why"], what["failed"]) for step, what in events.of("save_failed")]
        assert found == [(200, why, 1), (202, why, 2)] and [
            what["retry_s"] for _, what in events.of("save_failed")
        ] == [1.0, 2.0]
        assert numbers["checkpoint/failed"] == 2.0 and not checkpointer.due(205)
        assert checkpointer.verify_latest() == 204 and sorted(os.listdir(checkpointer.folder)) == [
            "100",
            "204",
        ]
        assert_same_bits(checkpointer.restore(204, like(mesh)), state_on(mesh, 204))
    checkpointer.close()


def test_at_the_end_a_save_is_tried_again_and_then_the_error_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "LAST_PAUSES_S", (0.0, 0.1))
    events = Events()
    checkpointer = Checkpointer(tmp_path, Checkpoints(every_steps=1), event=events)
    with jax.set_mesh(under(ONE_DEVICE)):
        with a_file_in_the_way(checkpointer.folder):
            save(checkpointer, 1)
            with pytest.raises(
                OutputError,
                match=r"^cannot save a checkpoint in \S+/checkpoints: a file has that name; free space or \S.*",
            ):
                checkpointer.wait()
            assert [step for step, _ in events.of("save_failed")] == [1, 1, 1]
        checkpointer.close()
        assert checkpointer.verify_latest() == 1 and events.of("saved")[-1][0] == 1


def _fill_the_disk(folder: Path) -> tuple[list[int], list[str], int | None]:
    mesh, events = under(ONE_DEVICE), Events()
    checkpointer = Checkpointer(folder, Checkpoints(every_steps=1), event=events)

    def save_large(step: int) -> None:
        checkpointer.save(state_on(mesh, step, LARGE), POSITION, RUN)

    with jax.set_mesh(mesh):
        save_large(1)
        checkpointer.wait()
        unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(
            resource.RLIMIT_FSIZE, (200_000, unlimited[1])
        )  # a write beyond it fails, as on a full disk
        save_large(2)
        poll_until(checkpointer, 3, lambda: bool(events.of("save_failed")), "the failure")
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        save_large(4)
        checkpointer.close()
        failed = [step for step, _ in events.of("save_failed")]
        return (
            failed,
            sorted(path.name for path in checkpointer.folder.iterdir()),
            checkpointer.verify_latest(),
        )


def test_a_disk_that_fills_up_while_a_save_is_written_costs_this_save_alone_and_leaves_nothing_half(
    tmp_path,
):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_fill_the_disk, (tmp_path,)) == ([2], ["1", "4"], 4)


def test_a_save_that_is_due_while_a_slow_one_is_written_comes_later_with_a_newer_state(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(checkpoint, "RUNNING_S", 0.0)
    events, mesh = Events(), under(ONE_DEVICE)
    checkpointer = Checkpointer(tmp_path, Checkpoints(every_steps=1000, keep=200), event=events)
    with jax.set_mesh(mesh):
        postponed = next(
            step
            for step in range(1, 200)
            if save(checkpointer, step) or events.of("save_postponed")
        )
        poll_until(
            checkpointer, postponed, lambda: checkpointer.due(postponed + 1), "the one that is owed"
        )
        save(checkpointer, postponed + 1)
        checkpointer.close()
        assert checkpointer.verify_latest() == postponed + 1 and postponed not in map(
            int, (p.name for p in checkpointer.folder.iterdir())
        )
        assert not events.of("save_failed")


def test_the_room_on_the_disk_is_looked_at_before_a_save(tmp_path, monkeypatch):
    events, mesh = Events(), under(ONE_DEVICE)
    size = sum(x.nbytes for x in jax.tree.leaves(arrays_of(state_on(mesh, 1))))
    free = [3 * size]
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: type(disk_usage(path))(2**40, 2**40 - free[0], free[0])
    )
    checkpointer = Checkpointer(tmp_path, Checkpoints(every_steps=1), event=events)
    with jax.set_mesh(mesh):
        save(checkpointer, 1)
        checkpointer.wait()
        assert events.of("low_space") == []
        free[0] = 2 * size - 1
        save(checkpointer, 2)
        checkpointer.wait()
        assert [(step, what["checkpoint_bytes"]) for step, what in events.of("low_space")] == [
            (2, size)
        ] and checkpointer.verify_latest() == 2
        free[0] = size - 1
        save(checkpointer, 3)
        poll_until(checkpointer, 3, lambda: bool(events.of("save_failed")), "the failure")
        assert events.of("save_failed")[0][1]["why"] == "no space left on the device"
        free[0] = 3 * size
        checkpointer.close()
    assert checkpointer.verify_latest() == 3


def test_several_processes_fail_retry_and_fall_back_together(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "tests.trainer.checkpoint_process", "cluster", str(tmp_path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [
        subprocess.Popen([*command, str(i), "2", port], env=environment(), **pipes)
        for i in range(2)
    ]
    said = [process.communicate(timeout=240) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    first, second = (json.loads(out.split("FOUND ")[1].splitlines()[0]) for out, _ in said)
    assert first.pop("damaged") == [8] and second.pop("damaged") == [], (
        "process 0 alone looks at the files"
    )
    assert first == second and first["sums"] == first["expected"]
    wanted = {
        "latest_at_first": None,
        "after_two": 4,
        "failed": [6],
        "after_retry": 8,
        "newest": 4,
        "of_another": 10,
    }
    assert {name: first[name] for name in wanted} == wanted
    with jax.set_mesh(under(ONE_DEVICE)):  # what two processes saved
        checkpointer = Checkpointer(tmp_path, Checkpoints(every_steps=2), event=Events())
        assert_same_bits(
            checkpointer.restore(4, like(under(ONE_DEVICE))), state_on(under(ONE_DEVICE), 4)
        )
