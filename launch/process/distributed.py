"""The cluster a process belongs to: read from environment variables, joined, and agreement with process 0."""

import json
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from launch.process import stopping
from launch.process.aborts import explain_aborts_of_peers
from launch.process.failures import PeerFailed, explain
from trainer.cluster.c_signals import CHandler

# A process may be silent for so long (a slow disk, swapping) before it counts as lost.
HEARTBEAT_S = 30
JOIN_S = 300  # nodes of one job start minutes apart
SHUTDOWN_S = 20
EXPLICIT = ("COORDINATOR_ADDRESS", "NUM_PROCESSES", "PROCESS_ID")


class Cluster(NamedTuple):
    """`address` is the coordinator's host:port as the other processes reach it, `bind` the address that it
    listens on: never all interfaces.
    """

    address: str
    n: int
    process: int
    bind: str
    chosen_by: str


def find_cluster(env: Mapping[str, str]) -> Cluster | None:
    """The cluster by the variables MESHWRIGHT_* or JAX_*, else SLURM_*, else one process on loopback. None:
    jax finds it out itself (Open MPI, TPU pods).

    jax knows SLURM too, but would listen on all interfaces; here the coordinator binds its own address.

    Raises:
        ValueError: only some of the three variables are set, or one has no valid value.
    """
    # MESHWRIGHT_* comes first: a scheduler may set JAX_* for all its jobs.
    values = {name: env.get(f"MESHWRIGHT_{name}") or env.get(f"JAX_{name}") for name in EXPLICIT}
    given = {name: value for name, value in values.items() if value}
    if {"SLURM_PROCID", "SLURM_NTASKS", "SLURM_STEP_NODELIST"} <= env.keys():
        # Those that are given explicitly win over SLURM's.
        return _checked({**_slurm(env), **given}, env, "SLURM")
    if given:
        return _checked(given, env, "the environment")
    # jax reads the variables of Open MPI and of TPU pods itself.
    if int(env.get("OMPI_COMM_WORLD_SIZE", "1")) > 1 or "," in env.get("TPU_WORKER_HOSTNAMES", ""):
        return None
    # A cluster of one, so that the signal handling and the shutdown are the same as with several.
    alone = {
        "COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}",
        "NUM_PROCESSES": "1",
        "PROCESS_ID": "0",
    }
    return _checked(alone, env, "default")


def _checked(given: Mapping[str, str], env: Mapping[str, str], chosen_by: str) -> Cluster:
    missing = [f"JAX_{name}" for name in EXPLICIT if name not in given]
    if missing:
        there = ", ".join(f"JAX_{name}={value}" for name, value in given.items())
        raise ValueError(f"{there} is set but {', '.join(missing)} is not; set all three or none")
    address = given["COORDINATOR_ADDRESS"]
    n = _number(given, "NUM_PROCESSES")
    process = _number(given, "PROCESS_ID")

    # Checked here, because jax would wait for minutes and then report a timeout.
    if not re.fullmatch(r".+:\d+", address):
        raise ValueError(f"JAX_COORDINATOR_ADDRESS={address} must be host:port; add the port")
    if not 0 <= process < n:
        rule = f"must be from 0 to JAX_NUM_PROCESSES-1={n - 1}"
        raise ValueError(f"JAX_PROCESS_ID={process} {rule}; correct one of them")

    return Cluster(
        address, n, process, env.get("JAX_COORDINATOR_BIND_ADDRESS") or address, chosen_by
    )


def _slurm(env: Mapping[str, str]) -> dict[str, str]:
    """The three variables by those of SLURM's job step; the first of `node[001-004,7]` is node001."""
    # Up to a comma; of a bracket only its first number.
    first = (
        re.match(r"[^,\[]+(?:\[[^,\-\]]+)?", env["SLURM_STEP_NODELIST"]).group().replace("[", "")
    )
    # From the job's id, so that two jobs on one node differ. Below 32768, where Linux hands out ports.
    port = env.get("JAX_COORDINATOR_PORT") or str(12000 + int(env.get("SLURM_JOB_ID", "0")) % 20000)
    return {
        "COORDINATOR_ADDRESS": f"{first}:{port}",
        "NUM_PROCESSES": env["SLURM_NTASKS"],
        "PROCESS_ID": env["SLURM_PROCID"],
    }


def _number(given: Mapping[str, str], name: str) -> int:
    if not given[name].isdecimal():
        raise ValueError(f"JAX_{name}={given[name]} must be a whole number; correct it")
    return int(given[name])


def free_port() -> int:
    """A TCP port that is free on loopback now."""
    with socket.socket() as probe:
        # 0: the system chooses. Another process may take the port before we do, which is rare.
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def join_cluster(cluster: Cluster | None) -> None:
    """Join once; later calls do nothing.

    From here on jax's notifier receives SIGTERM, unless it raised before: then it raises still, and
    `handler_of_jax` gives the notifier to those who want it.
    """
    import jax

    if jax.distributed.is_initialized():
        return
    raises = signal.getsignal(signal.SIGTERM) is stopping.raise_stop
    # Handlers in Python would have to wait until all processes are here.
    with stopping.ending_at_once():
        _initialize(cluster)
    _handlers_of_jax[:] = [CHandler(signal.SIGTERM)]
    if raises:
        signal.signal(signal.SIGTERM, stopping.raise_stop)
    if jax.process_count() > 1 and jax.default_backend() == "cpu":
        # jax writes the cache in process 0 alone. A program that one process loads and another
        # compiles anew may order its collectives differently on a CPU: a deadlock.
        jax.config.update("jax_enable_compilation_cache", False)


# the handler that jax's notifier has set for SIGTERM; empty before a cluster is joined
_handlers_of_jax: list[CHandler] = []


def handler_of_jax() -> CHandler | None:
    """The handler of jax's notifier for SIGTERM; None before a cluster is joined."""
    return _handlers_of_jax[0] if _handlers_of_jax else None


def _initialize(cluster: Cluster | None) -> None:
    """Wait for all processes of the cluster."""
    import jax

    limits = {
        "initialization_timeout": JOIN_S,
        "heartbeat_timeout_seconds": HEARTBEAT_S,
        "shutdown_timeout_seconds": SHUTDOWN_S,
    }
    if cluster is None:
        jax.distributed.initialize(**limits)
    else:
        local = None  # all devices that this process sees
        if cluster.chosen_by == "SLURM" and _shares_gpus():
            # SLURM numbers the tasks of a node from 0, as CUDA numbers the GPUs that are visible.
            local = [int(os.environ["SLURM_LOCALID"])]
        jax.distributed.initialize(
            cluster.address,
            cluster.n,
            cluster.process,
            local,
            coordinator_bind_address=cluster.bind,
            **limits,
        )
        # A single process has no peer to lose.
        if cluster.n > 1:
            explain_aborts_of_peers(cluster.address if cluster.process else None)


def _shares_gpus() -> bool:
    """Whether the tasks of a SLURM node see each other's GPUs, so that each must take its own."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    sees_several = visible.count(",") > 0
    n_tasks = int(os.environ.get("SLURM_NTASKS_PER_NODE", "1") or 1)
    return "SLURM_LOCALID" in os.environ and sees_several and n_tasks > 1


def is_first() -> bool:
    """Whether this is process 0, which prints and prepares data. Call it after joining a cluster."""
    if client_of_several() is None:
        return True
    from trainer.cluster import coordination

    return coordination.is_first()


def agree[T](name: str, compute: Callable[[], T]) -> T:
    """What `compute()` returns in process 0, sent as JSON to all others, who wait however long it takes.

    Raises:
        PeerFailed: in the others, if it raised in process 0, which raises the error itself.
    """
    client = client_of_several()
    # A prefix, because jax keeps keys of its own in the same service.
    key = f"meshwright/{name}"
    if client is None:
        return compute()
    if not is_first():
        return _wait_for(client, key)
    try:
        value = compute()
    except BaseException as error:
        code, sentence = explain(error)
        # The others wait without a limit, so they must be told of the failure.
        client.key_value_set(key, json.dumps({"code": code, "sentence": sentence or repr(error)}))
        raise
    client.key_value_set(key, json.dumps({"value": value}))

    return value


def _wait_for(client: Any, key: str) -> Any:
    from trainer.cluster.agreement import wait_for_key

    message = json.loads(wait_for_key(client, key))
    if "code" in message:
        raise PeerFailed(message["code"], f"process 0: {message['sentence']}")
    return message["value"]


def client_of_several() -> Any:
    """The coordination service's client where there are several processes, else None."""
    if "jax" not in sys.modules:  # a process that has not imported jax has joined nobody
        return None
    from trainer.cluster import coordination

    return coordination.client_of_several()
