"""The wheel holds all that the program reads of itself, and works where there is no clone."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.house.repository import ROOMS, ROOT, files

BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a copy of the tree, so that nothing is left in this one."""
    folder = tmp_path_factory.mktemp("wheel")
    for path in files():
        relative = path.relative_to(ROOT)
        if relative.parts[0] in (*ROOMS, "pyproject.toml", "README.md", "LICENSE"):
            (folder / "clone" / relative).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / "clone" / relative)
    command = [sys.executable, "-P", "-c", BUILD, str(folder)]
    done = subprocess.run(command, cwd=folder / "clone", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.splitlines()[-1]


def test_every_file_of_our_rooms_is_in_the_wheel(wheel):
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    ours = {str(path.relative_to(ROOT)) for path in files()}
    wanted = {path for path in ours if Path(path).parts[0] in ROOMS}
    assert wanted - inside == set()
    assert {f"{room}/py.typed" for room in ROOMS} <= inside
    assert not any(path.startswith("tests/") for path in inside)


@pytest.mark.slow
def test_the_wheel_runs_outside_of_the_clone(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    # A fresh environment that sees the libraries, but not the link to this clone, which is a .pth file
    # and counts only where Python itself finds it.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    site = next((tmp_path / "venv/lib").glob("python*/site-packages"))
    libraries = Path(os.__file__).parent / "site-packages"
    here = next(Path(entry) for entry in sys.path if (Path(entry) / "jax").is_dir())
    (site / "libraries.pth").write_text(f"{tmp_path / 'site'}\n{here}\n{libraries}\n")
    small = ["--set", "pretrain.steps=2", "--set", "pretrain.optimizer.schedule.warmup_steps=1"]
    # The tests have eight devices, and a user of a laptop one.
    ours = ("PYTHONPATH", "XLA_FLAGS")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    for words in (["--version"], ["run", "shakespeare", *small], ["report", "runs/shakespeare"]):
        command = [python, "-P", "-m", "launch", *words]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    where = subprocess.run(
        [python, "-P", "-c", "import launch.verbs as verbs; print(list(verbs.__path__))"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (
        str(tmp_path / "site") in where.stdout
        and (tmp_path / "runs/shakespeare/report.html").exists()
    )
