"""The verb `run`: phases in order, skipped when done, stopped and failed with a sentence and the code of
the house.
"""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from launch.__main__ import main
from launch.job.load import Job, dump, load
from launch.job.yaml import read_yaml, to_yaml
from launch.process.children import typed_command
from launch.running.lineage import Answers, lineage, read_json, states
from launch.running.next_commands import next_commands
from launch.verbs.run import without_options
from tests.launch import toy
from tests.launch.command import TOYS, begin, meshwright, until


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to stand in, with toy.yaml: two counts, no devices."""
    (tmp_path / "toy.yaml").write_text(to_yaml(dump(toy.job())))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*argv):
    return main(["run", "toy.yaml", *TOYS, *argv])


def test_phases_run_in_order_and_leave_their_record(folder, capsys):
    assert run() == 0
    out = capsys.readouterr().out
    assert (
        out.index("[1/2] data: starts")
        < out.index("[1/2] data: done")
        < out.index("[2/2] pretrain: starts")
        < out.index("before")
    )
    assert read_yaml(folder / "runs/toy/job.yaml") == dump(toy.job())
    assert (folder / "runs/toy/report.html").exists()
    assert json.loads((folder / "runs/toy/launches.jsonl").read_text())["argv"][0] == "run"
    assert read_json(folder / "runs/toy/pretrain/done.json")["after"].keys() == {"data"}


def test_the_next_commands_are_those_that_the_job_allows(folder, monkeypatch):
    monkeypatch.setattr(sys, "executable", f"{folder}/.venv/bin/python")
    script = folder / ".venv/bin/meshwright"
    script.parent.mkdir(parents=True)
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    commands = [command for command, _ in next_commands(load("tiny"), Path("runs/my x"))]
    # The environment is not activated: the bare name would be another program, or none.
    assert commands == [
        ".venv/bin/meshwright generate 'runs/my x' --chat --prompt 'What does `pathlib.Path.exists(self)` do?'",
        ".venv/bin/meshwright tensorboard 'runs/my x'",
        ".venv/bin/meshwright run tiny --dir runs/mine --set data.sources.books.folder=FOLDER",
    ]
    load("tiny", [commands[-1].split()[-1]])  # the setting is one that the job has
    monkeypatch.setenv("PATH", str(script.parent))
    assert next_commands(load("tiny"), Path("x"))[1][0] == "meshwright tensorboard x"
    # `sources` of a user's own phase are no readers.
    sources = "data.sources=[a, b]"
    toys = load("toy.yaml", [sources], imports=["tests.launch.toy"])
    assert next_commands(toys, Path("runs/x")) == []


def test_finished_phases_are_skipped_and_the_tables_come_again(folder, capsys):
    run()
    made = (folder / "runs/toy/data/results.json").stat().st_mtime_ns
    capsys.readouterr()
    assert run() == 0
    out = capsys.readouterr().out
    assert out.count("done before, skipped") == 2 and "before" in out
    assert (folder / "runs/toy/data/results.json").stat().st_mtime_ns == made


def everything_in(run_dir):
    """Name → content of every file."""
    return {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}


@pytest.mark.parametrize("way", [[], ["--dry-run"], ["--on", "local:2"]], ids=str)
@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("pretrain.optimizer.peak_lr=1e-3", "optimizer.peak_lr: 1.0e-05 there, 0.001 now"),
        ("pretrain.steps=3", "steps: 20 there, 3 now"),
        ("pretrain.weights.web=2.0", "weights.web: 1.0 there, 2.0 now"),
        ("data.mode=slow", "mode: fast there, slow now"),
    ],
)
def test_a_finished_phase_with_another_field_is_refused_and_nothing_is_written(
    folder, capsys, setting, told, way
):
    run()
    before = everything_in(folder)
    assert run("--set", setting, *way) == 2
    name = setting.partition(".")[0]
    err = capsys.readouterr().err
    assert f"runs/toy/{name} is finished, with other settings ({told})" in err
    assert f"--again {name}" in err and "another --dir" in err
    assert everything_in(folder) == before


def test_more_steps_go_on_after_the_last_of_a_finished_phase(folder, capsys):
    run()
    assert run("--set", "pretrain.steps=30", "--dry-run") == 0
    assert "runs/toy/pretrain: Count would be resumed" in capsys.readouterr().out


def test_a_phase_is_made_again_beside_what_it_made_before(folder, capsys):
    run()
    other = ["--set", "pretrain.optimizer.peak_lr=1e-3"]
    assert run(*other, "--again", "pretrain") == 0
    assert "runs/toy/data: Count is done" not in capsys.readouterr().out
    for path, rate in (("earlier/pretrain-1", 1e-5), ("pretrain", 1e-3)):
        done = read_json(folder / "runs/toy" / path / "done.json")
        assert done["config"]["optimizer"]["peak_lr"] == rate
    assert read_yaml(folder / "runs/toy/job.yaml")["pretrain"]["optimizer"]["peak_lr"] == 1e-3
    assert run("--again", "data") == 2
    assert (
        "pretrain was made after data, which is made anew; add --again" in capsys.readouterr().err
    )
    assert run("--again", "data", "--again", "pretrain") == 0
    assert (folder / "runs/toy/earlier/pretrain-2/done.json").exists()
    # A person who wants the space back deletes the oldest.
    shutil.rmtree(folder / "runs/toy/earlier/pretrain-1")
    assert run("--again", "pretrain") == 0
    assert (folder / "runs/toy/earlier/pretrain-3/done.json").exists()
    assert run("--again", "dpo") == 2
    assert "--again dpo: no such phase; there are data, pretrain" in capsys.readouterr().err


def test_the_record_keeps_what_a_finished_phase_was_made_with(folder):
    (folder / "placed.yaml").write_text("train: {type: Placed}\n")
    assert main(["run", "placed.yaml", *TOYS]) == 0
    moved = ["run", "placed.yaml", *TOYS, "--set", "train.where=there"]
    assert main(moved) == 2
    assert main([*moved, "--allow-change", "train.where"]) == 0
    assert read_yaml(folder / "runs/placed/job.yaml")["train"]["where"] == "here"


def test_a_phase_made_after_another_one_is_refused_with_the_remedy(folder, capsys):
    run()
    assert run("--set", "data.steps=6") == 2
    err = capsys.readouterr().err
    assert "runs/toy/pretrain was made after another data" in err and "--again pretrain" in err


def test_all_that_is_wrong_is_said_at_once_and_no_folder_is_made(folder, capsys):
    assert run("--set", "data.foresees=a cloud", "--set", "pretrain.foresees=rain") == 2
    err = capsys.readouterr().err
    assert "2 problems:\n  data.mode: a cloud; wait\n  pretrain.mode: rain; wait\n" in err
    assert not (folder / "runs").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--dir", "gs://b/x"], "gs://b/x is a URL, and runs are written to file systems alone"),
        (["--dir=s3://b/x"], "s3://b/x is a URL"),
        (["--profile", "steps=5"], "--profile steps=5: must be steps=FIRST:LAST"),
    ],
)
def test_a_wrong_option_is_one_sentence_and_nothing_is_written(folder, capsys, options, told):
    try:
        code = run(*options, "--dry-run")
    except SystemExit as end:
        code = end.code
    err = capsys.readouterr().err
    assert code == 2 and told in err and len(err.splitlines()) == 1
    assert [path.name for path in folder.iterdir()] == ["toy.yaml"]


def test_the_home_directory_is_written_with_a_tilde(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder / "me"))
    assert run("--dir=~/x y") == 0
    assert (folder / "me/x y/report.html").exists() and not (folder / "~").exists()


def test_a_dry_run_writes_nothing(folder, capsys):
    assert run("--dry-run") == 0
    assert not (folder / "runs").exists() and "would run" in capsys.readouterr().out


def test_the_folder_is_the_users_choice(folder):
    assert run("--dir", "elsewhere/deep") == 0
    assert (folder / "elsewhere/deep/pretrain/done.json").exists()


@pytest.mark.parametrize(
    ("failure", "code", "told"),
    [
        ("ValueError", 2, "error: steps=1 is not to my liking; choose another"),
        ("disk", 2, "the disk is full"),
        (
            "KeyError",
            1,
            "internal error: KeyError: 'a fault of ours'; the traceback is in runs/toy/error.log",
        ),
        ("foreign", 1, "internal error: JSONDecodeError"),
    ],
)
def test_a_failure_is_one_line_and_its_code(folder, capsys, failure, code, told):
    assert run("--set", f"pretrain.fails_with={failure}") == code
    err = capsys.readouterr().err
    assert told in err and len(err.splitlines()) == 1
    assert (folder / "runs/toy/error.log").exists() == (code == 1)
    assert (folder / "runs/toy/data/done.json").exists() and not (
        folder / "runs/toy/pretrain/done.json"
    ).exists()


def test_the_traceback_is_printed_on_request(folder, capsys, monkeypatch):
    monkeypatch.setenv("MESHWRIGHT_TRACEBACK", "1")
    run("--set", "pretrain.fails_with=KeyError")
    assert "Traceback" in capsys.readouterr().err


def test_a_folder_that_is_a_file_is_told(folder, capsys):
    (folder / "taken").write_text("")
    assert run("--dir", "taken") == 2
    err = capsys.readouterr().err
    assert "taken: is there already and is no folder" in err and len(err.splitlines()) == 1


def test_a_folder_on_a_read_only_system_is_told(folder, capsys):
    assert run("--dir", "/proc/nothing") == 2
    err = capsys.readouterr().err
    assert "/proc/nothing" in err and len(err.splitlines()) == 1


def test_a_damaged_record_is_told(folder, capsys):
    run()
    (folder / "runs/toy/data/done.json").write_text("{")
    assert run() == 2
    assert "done.json: not JSON" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "code", "told"),
    [(signal.SIGINT, 130, "stopped by Ctrl-C"), (signal.SIGTERM, 143, "stopped by SIGTERM")],
    ids=str,
)
def test_a_signal_during_host_work_ends_with_its_code_and_how_to_go_on(folder, number, code, told):
    process = begin("run", "toy.yaml", *TOYS, "--set", "data.step_s=5", cwd=folder)
    until((folder / "runs/toy/data/begun").exists, "the first phase")
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    again = typed_command(["run", "toy.yaml", *TOYS, "--set", "data.step_s=5"])
    assert err == f"meshwright: {told}; `{again}` continues\n"
    assert not (folder / "runs/toy/data/done.json").exists()


def test_two_runs_do_not_write_into_one_folder(folder, capsys):
    process = begin("run", "toy.yaml", *TOYS, "--set", "data.step_s=5", cwd=folder)
    until((folder / "runs/toy/data/begun").exists, "the first phase")
    assert run() == 2
    assert "another meshwright run is writing there" in capsys.readouterr().err
    process.kill()
    process.communicate()


def test_device_work_runs_alone_in_a_cluster_of_one(folder):
    (folder / "sum.yaml").write_text("train: {type: Sum}\n")
    done = meshwright("run", "sum.yaml", *TOYS, cwd=folder)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert read_json(folder / "runs/sum/train/process-0.json") == {
        "sum": 1,
        "n": 1,
        "devices": 1,
        "local": 1,
    }


def test_half_a_cluster_in_the_environment_is_a_sentence(folder):
    done = meshwright("run", "toy.yaml", *TOYS, cwd=folder, JAX_PROCESS_ID="0")
    assert (
        done.returncode == 2
        and "set all three or none" in done.stderr
        and not os.path.exists(folder / "runs")
    )


def test_lineage_follows_the_order_of_phases(folder):
    job = Job("toy", toy.job(), "toy")
    rows = lineage(job)
    assert rows["data"]["after"] == {} and rows["pretrain"]["after"] == {
        "data": rows["data"]["fingerprint"]
    }
    assert states(job, folder, Answers()) == ({"data": "new", "pretrain": "new"}, [])


@pytest.mark.parametrize(
    "argv",
    [
        ["run", "a", "--on", "local:2", "--set", "x=1"],
        ["run", "--on=local:2", "a", "--set", "x=1", "--dry-run"],
        ["--cluster", "nodes=2", "run", "a", "--set", "x=1"],
    ],
)
def test_the_command_handed_over_is_the_same_less_where_it_runs(argv):
    assert without_options(argv, {"--on": 1, "--cluster": 1, "--dry-run": 0}) == [
        "run",
        "a",
        "--set",
        "x=1",
    ]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--on", "slrm"], "--on slrm: no such cluster"),
        (["--on", "local:0"], "no such cluster"),
        (["--cluster", "nodes=2"], "needs --on slurm"),
    ],
)
def test_a_wrong_cluster_is_told(folder, capsys, options, told):
    assert run(*options) == 2
    assert told in capsys.readouterr().err
