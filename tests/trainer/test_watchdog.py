"""The watchdog ends a process that hangs, wherever its main thread hangs, and nothing else. Real
processes.
"""

import subprocess
import sys
from pathlib import Path

from tests.launch.command import environment

PROGRAM = """
import sys, time
from pathlib import Path
import jax, jax.numpy as jnp
from trainer.cluster.hosts import Hosts
from trainer.cluster.watchdog import Watchdog

folder, kind = Path(sys.argv[1]), sys.argv[2]

def hang_in_python():
    time.sleep(600)

def hang_in_c():  # as in a collective whose other side never comes
    jax.jit(lambda x: jax.lax.while_loop(lambda y: y > 0, lambda y: y + 1e-9 * y * y, x))(jnp.ones(())).block_until_ready()

limit_s = 2.0
with Hosts() as hosts, Watchdog(None, folder=folder, hosts=hosts) as watchdog:
    watchdog.beat(1)
    if kind == "patience":
        time.sleep(limit_s + 1)
with Hosts() as hosts, Watchdog(limit_s, folder=folder, hosts=hosts) as watchdog:
    if kind == "patience":
        time.sleep(limit_s + 1)
    for step in range(1, 6):
        watchdog.beat(step)
        if kind == "patience":
            time.sleep(0.3 * limit_s)
            with watchdog.paused():
                time.sleep((limit_s + 1) * (step == 3))
    if kind != "patience":
        globals()[kind]()
print("done")
"""


def outcome(folder: Path, kind: str) -> subprocess.CompletedProcess:
    """Of a process that does `kind` under a limit of two seconds."""
    argv = [sys.executable, "-c", PROGRAM, str(folder), kind]
    return subprocess.run(argv, env=environment(), capture_output=True, text=True, timeout=120)


def test_a_hang_ends_with_75_and_all_stacks_on_disk_and_on_stderr(tmp_path):
    ended = outcome(tmp_path, "hang_in_python")
    assert ended.returncode == 75, ended.stderr
    assert (
        "nothing has moved for 2 s: at step 5" in ended.stderr
        and "start the same command again" in ended.stderr
    )
    stacks = (tmp_path / "stacks-0.txt").read_text()
    assert (
        "hang_in_python" in stacks
        and "hang_in_python" in ended.stderr
        and stacks.count("hread 0x") >= 2
    )


def test_a_hang_outside_of_python_ends_too_even_if_the_folder_cannot_be_written(tmp_path):
    ended = outcome(tmp_path / "none", "hang_in_c")
    assert ended.returncode == 75 and "hang_in_c" in ended.stderr


def test_the_first_step_and_pauses_may_take_their_time_and_without_a_limit_any_step(tmp_path):
    ended = outcome(tmp_path, "patience")
    assert (ended.returncode, ended.stdout) == (0, "done\n"), ended.stderr
    assert list(tmp_path.iterdir()) == []
