"""The cluster a process joins follows from its variables; the launcher's flags never replace the user's."""

import os
import signal
import subprocess
import sys

import pytest

from launch.process.distributed import find_cluster, free_port
from launch.process.environment import ONEDNN, sigterm_raises
from launch.process.failures import Terminated
from tests.launch.command import environment

SLURM = {
    "SLURM_JOB_ID": "123456",
    "SLURM_STEP_NODELIST": "node[007-009,12],other",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
}
JAX = {"JAX_COORDINATOR_ADDRESS": "host:99", "JAX_NUM_PROCESSES": "3", "JAX_PROCESS_ID": "1"}


def ran(code: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    """Python that runs the code in a process of its own, to its end."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_nothing_set_is_one_process_on_loopback():
    cluster = find_cluster({})
    assert (
        (cluster.n, cluster.process) == (1, 0)
        and cluster.address.startswith("127.0.0.1:")
        and cluster.bind == cluster.address
    )


def test_explicit_variables_win_over_slurm_and_ours_over_jax():
    assert find_cluster(JAX)[:3] == ("host:99", 3, 1)
    assert find_cluster({**JAX, "MESHWRIGHT_PROCESS_ID": "2"}).process == 2
    assert find_cluster({**SLURM, **JAX})[:3] == ("host:99", 3, 1)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node[007-009,12],other", "node007"),
        ("n1", "n1"),
        ("n1,n2", "n1"),
        ("gpu-a[3,5-6]", "gpu-a3"),
        ("a-b-1,a-b-2", "a-b-1"),
    ],
)
def test_a_slurm_step_names_its_first_node(nodes, first):
    cluster = find_cluster({**SLURM, "SLURM_STEP_NODELIST": nodes})
    assert cluster[:3] == (f"{first}:{12000 + 123456 % 20000}", 4, 2)


def test_the_script_of_a_job_may_name_address_and_port():
    assert find_cluster({**SLURM, "JAX_COORDINATOR_PORT": "500"}).address == "node007:500"
    assert find_cluster({**SLURM, "JAX_COORDINATOR_ADDRESS": "head:77"})[:3] == ("head:77", 4, 2)


@pytest.mark.parametrize("cluster", [JAX, SLURM, {}], ids=["explicit", "slurm", "single"])
def test_the_coordinator_never_binds_all_interfaces(cluster):
    found = find_cluster(cluster)
    assert found.bind == found.address


@pytest.mark.parametrize(
    ("env", "told"),
    [
        (
            {"JAX_PROCESS_ID": "1"},
            "JAX_PROCESS_ID=1 is set but JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES is not",
        ),
        ({**JAX, "JAX_COORDINATOR_ADDRESS": "host"}, "must be host:port"),
        ({**JAX, "JAX_NUM_PROCESSES": "many"}, "JAX_NUM_PROCESSES=many must be a whole number"),
        (
            {**JAX, "JAX_PROCESS_ID": "3"},
            "JAX_PROCESS_ID=3 must be from 0 to JAX_NUM_PROCESSES-1=2",
        ),
    ],
)
def test_half_a_cluster_is_refused(env, told):
    with pytest.raises(ValueError, match=told):
        find_cluster(env)


def test_open_mpi_and_tpu_pods_are_left_to_jax():
    assert find_cluster({"OMPI_COMM_WORLD_SIZE": "2"}) is None
    assert find_cluster({"TPU_WORKER_HOSTNAMES": "a,b"}) is None
    assert find_cluster({"TPU_WORKER_HOSTNAMES": "localhost"}).n == 1


@pytest.mark.parametrize(
    ("platforms", "flags", "result"),
    [
        ("cpu", "", f"{ONEDNN}=true"),
        ("cpu", "--xla_dump_to=x", f"--xla_dump_to=x {ONEDNN}=true"),
        ("cpu", f"{ONEDNN}=false", f"{ONEDNN}=false"),
        ("cuda", "--xla_dump_to=x", "--xla_dump_to=x"),
    ],
)
def test_flags_are_added_on_a_cpu_and_never_replaced(platforms, flags, result):
    act = "from launch.process.environment import prepare_process; prepare_process()"
    probe = f"{act}; import os, sys; print(os.environ['XLA_FLAGS'], 'jax' in sys.modules)"
    done = ran(probe, JAX_PLATFORMS=platforms, XLA_FLAGS=flags)
    assert done.stdout.strip() == f"{result} False"


def test_free_ports_are_free():
    assert 1024 <= free_port() < 65536


def test_sigterm_raises_inside_and_the_old_handler_stands_after():
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        with pytest.raises(Terminated), sigterm_raises():
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert seen == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


NOTIFIER = """
import os, signal, sys, time
from launch.process.distributed import find_cluster, join_cluster
from launch.process.environment import leave, sigterm_raises
from launch.process.failures import Terminated
join_cluster(find_cluster({}))
join_cluster(find_cluster({}))
try:
    with sigterm_raises():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
except Terminated:
    print("raised", flush=True)
os.kill(os.getpid(), signal.SIGTERM)
from jax.experimental import multihost_utils
end = time.monotonic() + 30
step = 0
while not multihost_utils.reached_preemption_sync_point(step) and time.monotonic() < end:
    step += 1
    time.sleep(0.05)
print("noted" if time.monotonic() < end else "lost", flush=True)
leave(143)
"""


def test_the_notifier_of_jax_stands_again_after_host_work():
    done = ran(NOTIFIER)
    assert done.stdout.split() == ["raised", "noted"] and done.returncode == 143, done.stderr


ABORTED = """
import ctypes, os, sys
from launch.process.aborts import explain_aborts_of_peers
explain_aborts_of_peers(sys.argv[1] or None)
ctypes.CDLL(None).abort()
"""


@pytest.mark.parametrize(
    ("coordinator", "told"),
    [("127.0.0.1:9", "process 0, which coordinates, is gone"), ("", "lines of jax above")],
)
def test_an_abort_of_jax_is_explained_and_has_the_code_of_a_lost_peer(coordinator, told):
    ended = ran(ABORTED, coordinator)
    assert (
        ended.returncode == 75
        and told in ended.stderr
        and "start the same command again" in ended.stderr
    )


OF_A_LIBRARY = """
import ctypes, threading
from launch.process.aborts import explain_aborts
explain_aborts()
thread = threading.Thread(target=ctypes.CDLL(None).abort)
thread.start()
thread.join()
"""


def test_an_abort_of_a_library_is_a_sentence_on_limits():
    ended = ran(OF_A_LIBRARY)
    assert ended.returncode == 75 and "raise `ulimit -u`" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


STACKS = """
import os, signal
from launch.process.environment import prepare_process
prepare_process()
def here():
    os.kill(os.getpid(), signal.SIGUSR1)
here()
print("goes on")
"""


def test_sigusr1_shows_all_stacks_and_ends_nothing():
    done = ran(STACKS)
    assert done.stdout == "goes on\n" and "in here" in done.stderr and done.returncode == 0
