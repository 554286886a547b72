"""A process that was started with something else ends all of them, with one sentence and within seconds."""

import subprocess
import sys
from pathlib import Path

import pytest

from launch.process.distributed import free_port
from tests.launch.command import TOYS, environment
from trainer.cluster.agreement import differences

JOB = "data: {type: Count, steps: 2}\ntrain: {type: Sum, rounds: 4}\n"


def run_two(folder: Path, *, second: tuple[str, ...]) -> list[subprocess.CompletedProcess]:
    """Both processes of one run, of which the second has further options."""
    (folder / "two.yaml").write_text(JOB)
    address = f"127.0.0.1:{free_port()}"
    processes = []
    for i, more in enumerate(((), second)):
        own = {
            "JAX_COORDINATOR_ADDRESS": address,
            "JAX_NUM_PROCESSES": "2",
            "JAX_PROCESS_ID": str(i),
        }
        command = [sys.executable, "-m", "launch", "run", "two.yaml", *TOYS, *more]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(command, cwd=folder, env=environment(**own), **pipes))
    done = []
    for process in processes:
        out, err = process.communicate(timeout=240)
        done.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    return done


@pytest.mark.parametrize(
    ("second", "named"),
    [
        (("--set", "data.optimizer.peak_lr=0.5"), "data.optimizer.peak_lr=0.5"),
        (("--dir", "elsewhere"), "--dir="),
    ],
)
def test_a_process_with_another_field_or_option_is_named_by_all(tmp_path, second, named):
    for process in run_two(tmp_path, second=second):
        assert process.returncode == 2, process.stdout + process.stderr
        (line,) = process.stderr.splitlines()
        assert f"process 1 was started with {named}" in line and "process 0 with" in line
    assert not (tmp_path / "runs/two/data").exists()


def test_differences_name_fields_values_and_what_one_of_them_lacks():
    own = {"steps": 10, "seed": 0, "a": 1, "b": 2}
    theirs = {"steps": 20, "seed": 0, "a": 2, "b": 3, "warmup_steps": 5}
    sentence = differences(own, theirs, 3)
    assert "process 3 was started with steps=20, process 0 with steps=10" in sentence
    assert sentence.endswith("1 more fields differ") and "seed" not in sentence
    assert "no warmup_steps" in differences({}, {"warmup_steps": 5}, 1)
