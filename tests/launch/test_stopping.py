"""A stop is remembered until it is acted on, wherever Ctrl-C or SIGTERM comes in before the loop."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch.command import TOYS, begin, environment, meshwright, until

SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
JOB = "data: {type: Count, steps: 2}\ntrain: {type: Sum, rounds: 4}\n"

SWALLOWED = """
import gc, os, signal, sys, time
from launch.process import stopping

stopping.listen()
number, where = getattr(signal, sys.argv[1]), sys.argv[2]

class Dropped:
    def __del__(self):
        os.kill(os.getpid(), number)
        time.sleep(0.01)

def collected(phase, info):
    if phase == "start":
        gc.callbacks.remove(collected)
        os.kill(os.getpid(), number)
        time.sleep(0.01)

try:
    if where == "gc":
        gc.callbacks.append(collected)
        gc.collect()
    elif where == "del":
        Dropped()
    else:
        try:
            os.kill(os.getpid(), number)
            time.sleep(1)
        except BaseException:  # as a library does
            raise SystemError("a callback failed") from None
    time.sleep(20)
    print("lost")
except BaseException as error:
    print(type(stopping.instead_of(error)).__name__)
"""


@pytest.mark.parametrize("where", ["gc", "del", "library"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_that_a_callback_swallows_or_a_library_turns_into_an_error_comes_again(
    number, where
):
    done = subprocess.run(
        [sys.executable, "-c", SWALLOWED, number.name, where],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    expected = {signal.SIGINT: "KeyboardInterrupt", signal.SIGTERM: "Terminated"}
    assert done.stdout.strip() == expected[number], done.stderr


# A module is torn down after the last exit handler, when Python has its own signal handlers no more.
LEAVING = """
import os, signal, sys
from launch.process import stopping

stopping.listen()

class TornDown:
    def __del__(self, kill=os.kill, pid=os.getpid(), number=getattr(signal, sys.argv[1])):
        kill(pid, number)

sys.modules["kept_until_the_end"] = TornDown()
sys.exit(int(sys.argv[2]))
"""


@pytest.mark.parametrize("code", [0, 130])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_python_takes_itself_down_does_not_take_the_place_of_the_code(number, code):
    command = [sys.executable, "-c", LEAVING, number.name, str(code)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_signal_while_the_command_imports_ends_it_with_its_code(tmp_path, number, code):
    (tmp_path / "two.yaml").write_text(JOB)
    process = begin("run", "two.yaml", *TOYS, cwd=tmp_path)
    # The first handler of Python shows in the mask of caught signals, long before jax is imported.
    until(lambda: catches(process.pid, signal.SIGTERM), "the handler")
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, out + err
    assert "Traceback" not in err and "stopped by" in err


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_signal_inside_text_that_is_executed_ends_the_command_with_its_code(
    tmp_path, number, code
):
    (tmp_path / "two.yaml").write_text(JOB)
    # as a dataclass is made while the command imports
    text = f"import os; os.kill(os.getpid(), {number.value})"
    (tmp_path / "stops.py").write_text(f"exec({text!r})\n")
    done = meshwright("run", "two.yaml", "--import", "stops", cwd=tmp_path)
    assert done.returncode == code, done.stdout + done.stderr
    assert "stopped by" in done.stderr


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_signal_while_the_others_are_awaited_ends_the_process_at_once(tmp_path, number, code):
    (tmp_path / "two.yaml").write_text(JOB)
    # Somebody listens where process 0 should, and says nothing.
    with socket.create_server(("127.0.0.1", 0)) as server:
        alone = {
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{server.getsockname()[1]}",
            "JAX_NUM_PROCESSES": "2",
            "JAX_PROCESS_ID": "1",
        }
        process = begin("run", "two.yaml", *TOYS, cwd=tmp_path, **alone)
        server.settimeout(240)
        server.accept()
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == code, out + err
    assert "before the processes of the run had met" in err


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal, by the kernel's own list."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False
