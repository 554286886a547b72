"""`--on slurm`: a whole sbatch script that runs the same command, and queues itself again exactly when that
helps.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from launch.__main__ import main
from launch.clusters.slurm import Slurm, slurm_from
from launch.job.problems import Problems
from launch.running.lineage import read_json
from tests.launch.command import ROOT, TOYS, environment, meshwright

SRUN = """\
#!/usr/bin/env bash
echo "srun $*" >> "$FAKE/calls"
while [[ $1 == --* ]]; do shift; done
SLURM_PROCID=0 SLURM_LOCALID=0 exec "$@"
"""
SCONTROL = """\
#!/usr/bin/env bash
echo "scontrol $*" >> "$FAKE/calls"
if [[ $1 == show ]]; then echo 127.0.0.1; fi
"""


@pytest.fixture
def cluster(tmp_path):
    """A PATH with srun and scontrol that do what SLURM's do for one task, and the variables of a job."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    job = {
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NODELIST": "n1",
        "SLURM_STEP_NODELIST": "n1",
        "SLURM_NTASKS": "1",
    }
    return environment(FAKE=str(tmp_path), PATH=f"{tmp_path}:{os.environ['PATH']}", **job)


def script(command, **fields):
    return Slurm(**fields).script(command, name="toy", run_dir=Path("/r"), folder=Path.cwd())


def ends_with(code, cluster, **fields):
    """Run the script of a command that exits with `code`: (exit code, calls made)."""
    text = script(["bash", "-c", f"exit {code}"], **fields)
    done = subprocess.run(["bash", "-s"], input=text, env=cluster, text=True, capture_output=True)
    return done.returncode, (Path(cluster["FAKE"]) / "calls").read_text()


def test_the_script_says_all_that_the_job_needs():
    text = script(
        ["run", "it's"], nodes=2, gpus_per_node=8, partition="big", setup="module load cuda"
    )
    head = [
        line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")
    ]
    assert head == [
        "job-name=toy",
        "nodes=2",
        "ntasks-per-node=1",
        "gpus-per-node=8",
        "partition=big",
        "time=24:00:00",
        "signal=TERM@120",
        "requeue",
        "output=/r/logs/slurm-%j.log",
        "open-mode=append",
    ]
    assert "module load cuda\n" in text and "run 'it'\"'\"'s'" in text


@pytest.mark.parametrize(
    "fields", [{}, {"setup": "module load x", "memory": "1G", "cpus_per_task": 2}]
)
def test_bash_and_shellcheck_accept_the_script(fields):
    text = script(["true"], **fields)
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    if shutil.which("shellcheck"):
        done = subprocess.run(["shellcheck", "-"], input=text, text=True, capture_output=True)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 75, 130, 134, 137, 143])
def test_only_what_a_restart_mends_is_queued_again(cluster, code):
    found, calls = ends_with(code, cluster)
    requeued = code in (75, 134, 137, 143)
    assert ("scontrol requeue" in calls) == requeued and found == (0 if requeued else code)


def test_restarts_come_to_an_end(cluster):
    assert ends_with(143, {**cluster, "SLURM_RESTART_COUNT": "3"}, max_restarts=3)[0] == 143
    assert ends_with(143, {**cluster, "SLURM_RESTART_COUNT": "2"}, max_restarts=3)[0] == 0


def test_the_body_of_a_dry_run_trains(cluster, tmp_path):
    (tmp_path / "sum.yaml").write_text("data: {type: Count, steps: 2}\ntrain: {type: Sum}\n")
    told = meshwright(
        "run",
        "sum.yaml",
        *TOYS,
        "--set",
        "data.steps=3",
        "--on",
        "slurm",
        "--dry-run",
        cwd=tmp_path,
    )
    assert (
        told.returncode == 0
        and f"srun --kill-on-bad-exit=0 --wait=120 env PYTHONPATH={ROOT}" in told.stdout
    )
    assert not (tmp_path / "runs").exists()
    done = subprocess.run(
        ["bash", "-s"],
        input=told.stdout,
        env=cluster,
        text=True,
        capture_output=True,
        cwd="/",
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert read_json(tmp_path / "runs/sum/train/process-0.json")["n"] == 1
    assert read_json(tmp_path / "runs/sum/data/results.json")["summary"]["steps"] == 3


def test_settings_make_the_component():
    assert slurm_from(["nodes=2", "time=2:00:00", "memory=64G"]) == Slurm(
        nodes=2, time="2:00:00", memory="64G"
    )


def test_wrong_settings_are_told_together():
    with pytest.raises(Problems) as told:
        slurm_from(["node=2", "nodes=0", "time=3"])
    assert set(told.value.problems) == {
        "node=2: no such field; nearest: nodes",
        "nodes=0: must be at least 1; raise it",
        "time=3: must be text; put it in quotes",
    }


def test_the_job_goes_to_sbatch_and_a_machine_without_it_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sum.yaml").write_text("train: {type: Sum}\n")
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    assert main(["run", "sum.yaml", *TOYS, "--on", "slurm"]) == 2
    assert "there is no sbatch on this machine" in capsys.readouterr().err
    (tmp_path / "bin/sbatch").write_text("#!/bin/sh\ncat > got.sh; echo Submitted batch job 7\n")
    (tmp_path / "bin/sbatch").chmod(0o755)
    assert main(["run", "sum.yaml", *TOYS, "--on", "slurm"]) == 0
    assert (
        "Submitted batch job 7" in capsys.readouterr().out
        and "#SBATCH --requeue" in (tmp_path / "got.sh").read_text()
    )
    (tmp_path / "bin/sbatch").write_text("#!/bin/sh\necho no such partition >&2; exit 1\n")
    assert main(["run", "sum.yaml", *TOYS, "--on", "slurm"]) == 2
    assert "sbatch refused the job, no such partition" in capsys.readouterr().err
