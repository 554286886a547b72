"""One signal asks, a second one ends at once; both also while the main thread is inside of C++. What stood
before stands again.
"""

import contextlib
import os
import signal
import subprocess
import sys

import pytest

from tests.launch.command import environment
from trainer.cluster.c_signals import CHandler
from trainer.cluster.signals import StopSignals

PROGRAM = """
import os, signal, sys, time
from launch.process.distributed import find_cluster, join_cluster
if sys.argv[1] != "alone":
    join_cluster(find_cluster({}))
import jax, jax.numpy as jnp
from trainer.cluster.signals import StopSignals

kind, number = sys.argv[1], getattr(signal, sys.argv[2])
before = signal.getsignal(signal.SIGINT)
with StopSignals() as signals:
    signals.reached()
    if kind == "hang":
        print("hangs", flush=True)
        jax.jit(lambda x: jax.lax.while_loop(lambda y: y > 0, lambda y: y + 1e-9 * y * y, x))(jnp.ones(())).block_until_ready()
    os.kill(os.getpid(), number)
    os.kill(os.getpid(), number)  # `timeout` does that
    found, end = None, time.monotonic() + 60
    while not found and time.monotonic() < end:
        found = signals.reached()
        time.sleep(0.05)
    print(found, flush=True)
assert signal.getsignal(signal.SIGINT) is before
with StopSignals() as again:
    assert again.reached() is None
    print("again", flush=True)
os._exit(0)
"""


def begun(kind: str, number: signal.Signals) -> subprocess.Popen:
    argv = [sys.executable, "-c", PROGRAM, kind, number.name]
    return subprocess.Popen(
        argv, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_sent_twice_at_a_time_asks_once_for_the_end_by_its_name(number):
    out, err = begun("ask", number).communicate(timeout=120)
    assert out.split() == [number.name, "again"], err


def test_outside_of_a_cluster_a_signal_ends_this_process_after_its_step():
    out, err = begun("alone", signal.SIGTERM).communicate(timeout=120)
    assert out.split() == ["SIGTERM", "again"] and not err


def test_a_signal_that_the_shell_has_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGINT)
            assert signals.reached() is None
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("action", [signal.SIG_DFL, signal.SIG_IGN])
def test_where_no_function_in_c_handles_a_signal_none_is_called(action):
    before = signal.signal(signal.SIGUSR2, action)
    handler = CHandler(signal.SIGUSR2)
    handler.call()
    signal.signal(signal.SIGUSR2, before)
    assert not handler.is_set


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_ends_a_process_whose_main_thread_hangs_in_c(number, code):
    process = begun("hang", number)
    assert process.stdout.readline() == "hangs\n"
    while process.poll() is None:
        os.kill(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.5)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code and "stopped at once by a second signal" in err
