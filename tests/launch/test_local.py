"""`--on local:N`: real jax.distributed processes over loopback, saved together, ended together."""

import signal
import subprocess
import sys
import time

import pytest

from launch.clusters.local import share
from launch.running.lineage import read_json
from tests.launch.command import TOYS, begin, environment, meshwright, until

JOB = "data: {type: Count, steps: 2}\ntrain: {type: Sum, rounds: 4}\n"


@pytest.fixture
def folder(tmp_path):
    """A folder to stand in, with two.yaml: host work, then device work."""
    (tmp_path / "two.yaml").write_text(JOB)
    return tmp_path


def test_two_processes_make_one_run_and_one_process_finds_it_done(folder):
    done = meshwright(
        "run", "two.yaml", *TOYS, "--on", "local:2x2", "--set", "data.step_s=1", cwd=folder
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    for i in range(2):
        assert read_json(folder / f"runs/two/train/process-{i}.json") == {
            "sum": 3,
            "n": 2,
            "devices": 4,
            "local": 2,
        }
    assert all(line.startswith("[0] ") for line in done.stdout.splitlines())
    assert (
        done.stdout.count("data: starts") == 1
        and "data: starts" not in (folder / "runs/two/logs/process-1.log").read_text()
    )
    again = meshwright("run", "two.yaml", *TOYS, "--set", "data.step_s=1", cwd=folder)
    assert again.stdout.count("done before, skipped") == 2


def test_files_that_are_called_as_our_rooms_are_not_imported(folder):
    for name in ("model", "trainer", "launch", "data_pipeline", "inference", "statistics"):
        (folder / f"{name}.py").write_text("raise SystemExit('a file of the user')\n")
    (folder / "mine.py").write_text("from tests.launch.toy import Count, Sum  # noqa: F401\n")
    done = meshwright("run", "two.yaml", *TOYS, "--import", "mine", "--on", "local:2", cwd=folder)
    assert done.returncode == 0 and done.stderr == "", done.stderr


def test_a_process_that_is_killed_ends_all_and_is_named(folder):
    done = meshwright(
        "run", "two.yaml", *TOYS, "--on", "local:2", "--set", "train.dies=1", cwd=folder
    )
    assert done.returncode == 75
    assert "process 1 was killed by SIGKILL" in done.stderr
    assert (
        "Traceback" not in done.stdout + done.stderr
        and not (folder / "runs/two/train/done.json").exists()
    )


def test_an_error_in_process_0_reaches_the_waiting_others(folder):
    done = meshwright(
        "run",
        "two.yaml",
        *TOYS,
        "--on",
        "local:2",
        "--set",
        "data.fails_with=ValueError",
        cwd=folder,
    )
    assert done.returncode == 2
    assert "[0] meshwright: error: steps=1 is not to my liking" in done.stdout
    assert (
        "process 0: steps=1 is not to my liking"
        in (folder / "runs/two/logs/process-1.log").read_text()
    )


def test_a_users_error_is_told_once_and_starts_no_process(folder):
    done = meshwright(
        "run", "two.yaml", *TOYS, "--on", "local:2", "--set", "data.stepz=1", cwd=folder
    )
    assert (
        done.returncode == 2
        and len(done.stderr.splitlines()) == 1
        and not (folder / "runs").exists()
    )


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)],
)
def test_a_signal_is_passed_on_once(folder, number, code):
    process = begin(
        "run", "two.yaml", *TOYS, "--on", "local:2", "--set", "data.step_s=60", cwd=folder
    )
    until((folder / "runs/two/data/begun").exists, "the data phase")
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, out + err
    assert "continues" in out and "Traceback" not in out + err


def test_a_dry_run_prints_the_command(folder):
    done = meshwright("run", "two.yaml", *TOYS, "--on", "local:3", "--dry-run", cwd=folder)
    assert (
        done.stdout.startswith("3 processes on this machine, each: ") and "--on" not in done.stdout
    )
    assert not (folder / "runs").exists()


def test_devices_are_shared_out():
    assert share(
        {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--a --xla_force_host_platform_device_count=8"},
        0,
        2,
        1,
    )["XLA_FLAGS"].split() == [
        "--a",
        "--xla_force_host_platform_device_count=1",
    ]
    assert share({"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, 1, 2, 1) == {"CUDA_VISIBLE_DEVICES": "2,3"}
    with pytest.raises(ValueError, match="needs 3 GPUs, there are 2"):
        share({"CUDA_VISIBLE_DEVICES": "0,1"}, 0, 3, 1)


def copying(folder, *, n_lines):
    """A launcher whose one process prints lines, and then makes the file `ended`."""
    words = f"for i in range({n_lines}): print('line', i)"
    words += f"\nopen({str(folder / 'ended')!r}, 'w')"
    launcher = "import sys; from pathlib import Path; from launch.clusters.local import launch; "
    launcher += "sys.exit(launch(1, [sys.executable, '-uc', sys.argv[1]], logs=Path(sys.argv[2])))"
    command = [sys.executable, "-c", launcher, words, str(folder)]
    return subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_slow_reader_gets_the_last_line_of_process_0_too(tmp_path):
    # More than one pipe holds (64 KiB), and less than two: process 0 ends before anything is read.
    launcher = copying(tmp_path, n_lines=8000)
    until((tmp_path / "ended").exists, "process 0")
    time.sleep(0.5)
    out, err = launcher.communicate(timeout=60)
    assert (out.splitlines()[-1], err, launcher.returncode) == ("[0] line 7999", "", 0)


def test_a_run_whose_output_nobody_reads_on_comes_to_its_end(tmp_path):
    launcher = copying(tmp_path, n_lines=40_000)
    assert launcher.stdout.readline() == "[0] line 0\n"
    launcher.stdout.close()
    assert launcher.wait(60) == 0 and launcher.stderr.read() == ""
