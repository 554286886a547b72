"""A window of steps is traced where TensorBoard's profile page looks for it, asked for in advance or by a
signal.
"""

import gzip
import json
import os
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from trainer.memory import memory_row
from trainer.records.profiler import SIGNALLED_STEPS, Profiler, window_of


def traced_steps(folder: Path) -> list[list[int]]:
    """The steps named in each trace of the profile page, oldest first."""
    traces = sorted(
        folder.glob("plugins/profile/*/*.trace.json.gz"), key=lambda path: path.stat().st_mtime
    )
    assert len(traces) == len(list(folder.glob("plugins/profile/*/*.xplane.pb")))
    found = [json.loads(gzip.decompress(path.read_bytes()))["traceEvents"] for path in traces]
    names = [{event.get("name", "") for event in events} for events in found]
    return [
        sorted(int(name.removeprefix("number ")) for name in each if name.startswith("number "))
        for each in names
    ]


def steps(profiler: Profiler, numbers: range, *, signal_in: int = 0) -> None:
    for number in numbers:
        profiler.before(number)
        with jax.profiler.TraceAnnotation(f"number {number}"):
            results = jnp.ones(3) * number
        profiler.after(number, results)
        if number == signal_in:
            os.kill(os.getpid(), signal.SIGUSR2)


def test_the_steps_of_the_window_are_traced(tmp_path):
    profiler = Profiler(tmp_path, (2, 3))
    steps(profiler, range(1, 7))
    profiler.close()
    assert traced_steps(tmp_path) == [[2, 3]]


def test_a_signal_asks_for_the_next_steps(tmp_path):
    profiler = Profiler(tmp_path, None)
    steps(profiler, range(1, 12), signal_in=6)
    profiler.close()
    assert traced_steps(tmp_path) == [[7, 8, 9]] and SIGNALLED_STEPS == 3


def test_a_window_that_the_run_enters_or_leaves_in_the_middle_is_traced_as_far_as_it_goes(tmp_path):
    profiler = Profiler(tmp_path, (2, 30))
    steps(profiler, range(4, 6))
    profiler.close()
    assert traced_steps(tmp_path) == [[4, 5]]


def test_without_a_window_nothing_is_written_and_the_signal_is_given_back(tmp_path):
    before = signal.getsignal(signal.SIGUSR2)
    profiler = Profiler(tmp_path, None)
    steps(profiler, range(1, 4))
    profiler.close()
    assert not list(tmp_path.iterdir()) and signal.getsignal(signal.SIGUSR2) == before


def test_a_trace_that_cannot_be_written_is_said_and_stops_nobody(tmp_path, capsys):
    (tmp_path / "file").touch()
    profiler = Profiler(tmp_path / "file", (1, 1))
    steps(profiler, range(1, 3))
    profiler.close()
    assert f"{tmp_path / 'file'}: no trace could be written" in capsys.readouterr().err


def test_a_window_is_written_as_first_and_last_step():
    assert window_of("steps=10:13") == (10, 13) and window_of("steps=7:7") == (7, 7)


@pytest.mark.parametrize(
    "text",
    ["steps=13:10", "steps=0:3", "10:13", "steps=10", "steps=a:b", "steps=-1:3", "steps=1:3 "],
)
def test_a_window_written_otherwise_is_one_sentence_with_the_remedy(text):
    with pytest.raises(ValueError, match=r"--profile .*write steps=10:13"):
        window_of(text)


def test_memory_is_counted_in_bytes():
    row = memory_row()
    assert row["memory/host_bytes"] > 50e6
    assert ("memory/device_bytes" in row) == bool(jax.local_devices()[0].memory_stats())
