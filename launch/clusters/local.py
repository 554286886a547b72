"""`--on local:N`: N processes of one jax.distributed run on this machine, over loopback.

Every test with several processes starts here.
"""

import contextlib
import ctypes
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from launch.process.children import own_command, own_environment
from launch.process.distributed import free_port
from launch.process.failures import PEER_LOST

# After a failure the other processes have this long to notice it and leave; then they are killed.
GRACE_S = 15.0
# What process 0 has printed at its end has this long to be read, by a slow terminal or pipe.
LAST_LINES_S = 60.0
# Opened now: between fork and exec a child may not wait for a lock that another thread held.
LIBC = ctypes.CDLL(None)
# what most often is behind a signal that nobody has sent
OF_LIMITS = "most often threads or memory ran out: lower workers or batch sizes, or raise `ulimit`"
MOST_OFTEN = {
    "SIGKILL": "unless somebody did, by the system for want of memory: lower workers or batch sizes",
    "SIGABRT": OF_LIMITS,
    "SIGSEGV": OF_LIMITS,
    # a file mapped into memory that cannot be filled
    "SIGBUS": "most often a full disk or /dev/shm: free some space there",
}
DOCUMENTED_CODES = (2, 3, 4, 75, 130, 143)  # of the README; any other exit code becomes 1


def launch(
    n: int,
    argv: Sequence[str],
    *,
    logs: Path,
    env: Mapping[str, str] | None = None,
    devices: int = 1,
) -> int:
    """Run `argv` in n processes and wait; returns the exit code of the run. Process i > 0 writes to
    `logs`/process-i.log.
    """
    processes = start(n, argv, logs=logs, env=env, devices=devices)
    # A daemon: it must not keep the launcher alive where a grandchild holds the pipe open.
    copying = threading.Thread(target=_copy_lines, args=(processes[0].stdout, "[0] "), daemon=True)
    copying.start()
    with _forwarded_once(processes):
        code = wait(processes)
        # Where nobody reads as fast as process 0 wrote, its last lines are still on their way.
        copying.join(LAST_LINES_S)
        return code


def start(
    n: int,
    argv: Sequence[str],
    *,
    logs: Path,
    env: Mapping[str, str] | None = None,
    devices: int = 1,
) -> list[subprocess.Popen]:
    """Start `argv` n times with `env` over this environment; what process 0 prints is in its pipe."""
    logs.mkdir(parents=True, exist_ok=True)

    base = {**os.environ, **(env or {})}
    # Loopback keeps other machines out.
    address = f"127.0.0.1:{free_port()}"
    processes = []
    for i in range(n):
        own = {
            # `find_cluster` reads them in the child, as it reads those of a scheduler.
            "JAX_COORDINATOR_ADDRESS": address,
            "JAX_NUM_PROCESSES": str(n),
            "JAX_PROCESS_ID": str(i),
            **share(base, i, n, devices),
        }
        with contextlib.ExitStack() as files:
            if i > 0:
                # "ab": a resumed run appends to the log of its first start.
                out = files.enter_context(open(logs / f"process-{i}.log", "ab"))
            else:
                out = subprocess.PIPE
            child = subprocess.Popen(
                argv,
                env={**base, **own},
                # Processes that read one terminal would each get a part of what is typed.
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches the launcher alone, which passes it on once
                preexec_fn=_die_with_parent,
            )
        processes.append(child)
    return processes


def share(env: Mapping[str, str], i: int, n: int, devices: int) -> dict[str, str]:
    """Environment variables that give process i its share of this machine: equally many GPUs, or `devices`
    CPU devices each.

    Raises:
        ValueError: there are fewer GPUs than processes.
    """
    gpus = [] if env.get("JAX_PLATFORMS") == "cpu" else _gpus(env)
    if gpus:
        if len(gpus) < n:
            remedy = "lower it, or set JAX_PLATFORMS=cpu to use the CPU"
            raise ValueError(f"--on local:{n} needs {n} GPUs, there are {len(gpus)}; {remedy}")
        # A remainder stays unused: every process of a mesh needs the same number of devices.
        each = len(gpus) // n
        return {"CUDA_VISIBLE_DEVICES": ",".join(gpus[i * each : (i + 1) * each])}

    # A count that the user set is removed first, so that the flag stands there once.
    flags = re.sub(r"--xla_force_host_platform_device_count=\d+", "", env.get("XLA_FLAGS", ""))
    return {"XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={devices}".strip()}


def _gpus(env: Mapping[str, str]) -> list[str]:
    if "CUDA_VISIBLE_DEVICES" in env:
        return [name for name in env["CUDA_VISIBLE_DEVICES"].split(",") if name]
    # /dev/nvidia0, … is one file a GPU. Asking CUDA would take memory on every GPU.
    return [str(i) for i in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]


def _die_with_parent() -> None:
    """Have this child killed when the launcher dies, however it dies (Linux only)."""
    if sys.platform == "linux":
        LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _copy_lines(lines: IO[bytes], mark: str) -> None:
    """Print process 0's lines, each behind its mark."""
    for line in lines:
        # gloo, which sums the gradients of CPU processes, greets on stdout.
        if not line.startswith(b"[Gloo]"):
            try:
                # "replace": what a library prints need not be UTF-8.
                sys.stdout.write(mark + line.decode(errors="replace"))
                sys.stdout.flush()
            except BrokenPipeError:  # as in `… | head`
                # Read on: with its pipe full process 0 would wait for ever, and the others for it.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def _forwarded_once(processes: Sequence[subprocess.Popen]) -> Iterator[None]:
    """SIGINT and SIGTERM go to all processes once, which save together; a second one kills them."""
    received = []

    def forward(number: int, frame: object) -> None:
        received.append(number)
        for process in processes:
            if process.poll() is None:
                # The first signal asks for a save, any later one kills.
                process.send_signal(number if len(received) == 1 else signal.SIGKILL)

    # Set here and not in `start`, whose other callers handle signals themselves.
    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def wait(processes: Sequence[subprocess.Popen]) -> int:
    """Wait for all; when one fails, give the others a moment to notice, say who was lost, and end them.
    Returns the run's exit code.
    """
    try:
        while _first_failure(processes) is None and _running(processes):
            # Polled: no call waits for whichever of several Popen objects ends first.
            time.sleep(0.05)
        if _first_failure(processes) is None:
            return 0
        end = time.monotonic() + GRACE_S
        while _running(processes) and time.monotonic() < end:
            time.sleep(0.05)
        return _report_failure(processes)
    finally:
        _end(processes)


def _running(processes: Sequence[subprocess.Popen]) -> list[int]:
    return [i for i, process in enumerate(processes) if process.poll() is None]


def _report_failure(processes: Sequence[subprocess.Popen]) -> int:
    """Print which process failed and which do not answer; returns the exit code of the run."""
    failed = _first_failure(processes)
    running = _running(processes)
    # A returncode below 0 is minus the number of the signal that ended the process.
    code = processes[failed].returncode
    # 130 and 143 are 128 + SIGINT and SIGTERM: the user knows why the run ended.
    stopped_by_user = code in (130, 143)
    if running or not stopped_by_user:
        how = _killed(-code) if code < 0 else f"ended with code {code}"
        silent = [f"process {i} does not answer and is killed" for i in running]
        what = ", ".join([f"process {failed} {how}", *silent])
        print(f"meshwright: {what}; the others are ended", file=sys.stderr, flush=True)
    if code in DOCUMENTED_CODES:
        return code
    return PEER_LOST if code < 0 else 1


def _killed(number: int) -> str:
    """How a process ended that a signal has killed, and what most often does that."""
    name = signal.Signals(number).name
    cause = MOST_OFTEN.get(name, "")
    return f"was killed by {name}{cause and f' ({cause})'}"


def _first_failure(processes: Sequence[subprocess.Popen]) -> int | None:
    """The process that failed by itself; None while none has failed.

    Those that failed because another one was gone come last (jax aborts them, or they leave with PEER_LOST);
    of the others one that was killed comes before one that ended with a code.
    """
    codes = [process.poll() for process in processes]
    failed = [i for i, code in enumerate(codes) if code]
    because_of_another = (-signal.SIGABRT, PEER_LOST)
    # False sorts before True: own failures first, and of those killed processes first.
    return min(failed, key=lambda i: (codes[i] in because_of_another, codes[i] > 0), default=None)


def _end(processes: Sequence[subprocess.Popen]) -> None:
    """Kill what still runs, so that no process outlives the launcher."""
    for process in processes:
        if process.poll() is None:
            process.kill()  # SIGKILL also ends a process that SIGSTOP has paused
        # Reaps the child; else it would stay as a zombie until the launcher ends.
        process.wait()


def run_here(n: int, command: Sequence[str], *, devices: int, run_dir: Path, dry_run: bool) -> int:
    """The verb `run` on N processes of this machine."""
    argv = own_command(command)
    if dry_run:
        print(f"{n} processes on this machine, each: {shlex.join(argv)}")
        return 0
    return launch(n, argv, logs=run_dir / "logs", env=own_environment(), devices=devices)
