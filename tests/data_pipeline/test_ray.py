"""The same bytes from a Ray cluster, also when one of its workers is killed in the middle."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.data_pipeline.small_job import make_raw, outputs, prepare

ON_RAY = """
import os, signal, sys, threading, time
from pathlib import Path
import ray
from data_pipeline.engine.runner import Engine
from tests.data_pipeline.small_job import prepare

def workers():
    found = {}
    for process in Path("/proc").iterdir():
        try:
            words = (process / "cmdline").read_bytes().split(b"\\0")[0]
        except OSError:
            continue
        if words.startswith(b"ray::") and b"UDFActor" in words:
            found[int(process.name)] = words
    return found

def kill_one():
    while not (found := workers()):
        time.sleep(0.01)
    time.sleep(float(sys.argv[3]))
    for process in list(workers())[:1]:
        os.kill(process, signal.SIGKILL)
        print("killed a worker", flush=True)

if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    if float(sys.argv[3]) >= 0:
        threading.Thread(target=kill_one, daemon=True).start()
    job = prepare(Path(sys.argv[1]), engine=Engine(ray="auto"))
    job.execute(Path(sys.argv[2]), job_folder=Path(sys.argv[2]).parent)
    ray.shutdown()
"""


@pytest.mark.slow
@pytest.mark.parametrize("kill_after_s", [-1.0, 0.0, 0.2])
def test_a_ray_cluster_writes_the_bytes_of_one_machine(tmp_path, kill_after_s):
    raw = make_raw(tmp_path / "raw")
    prepare(raw).execute(tmp_path / "here" / "data", job_folder=tmp_path / "here")
    command = [sys.executable, "-c", ON_RAY, raw, tmp_path / "there" / "data", str(kill_after_s)]
    done = subprocess.run(
        command,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert ("killed a worker" in done.stdout) == (kill_after_s >= 0)
    assert outputs(tmp_path / "there" / "data") == outputs(tmp_path / "here" / "data")
