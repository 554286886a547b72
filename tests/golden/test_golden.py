"""Layouts and collectives are those of the golden files; nothing is gathered that the table does not call
for.
"""

import json
import subprocess
import sys

import pytest

from tests.golden.goldens import FOLDER
from tests.launch.command import environment


@pytest.fixture(scope="module")
def made(repository) -> dict:
    """What tests/golden/goldens.py finds, in a process of its own whose compiler says its warnings."""
    talkative = {
        "TF_CPP_MIN_LOG_LEVEL": "0",
        "JAX_ENABLE_COMPILATION_CACHE": "false",
    }  # a program from the cache warns of nothing
    # of a program whose layouts and collectives are read, LLVM need optimise nothing
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    talkative |= {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.golden.goldens", "--json"]
    done = subprocess.run(
        command, env={**environment(), **talkative}, cwd=repository, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return {**json.loads(done.stdout), "said": done.stderr}


def test_layouts_and_collectives_are_those_of_the_golden_files(made):
    """After a change that is meant: `python -m tests.golden.goldens` writes the files anew (see its first
    lines).
    """
    assert made["files"] == {path.name: path.read_text() for path in FOLDER.glob("*.txt")}


def test_no_step_makes_the_compiler_rematerialize_an_array_to_move_it(made):
    of_steps, of_the_bad_program = made["said"].split("from here on it is the bad program")
    assert "Involuntary full rematerialization" not in of_steps
    assert "Involuntary full rematerialization" in of_the_bad_program  # so it would be said


def test_nothing_is_gathered_that_the_table_does_not_call_for(made):
    for step in made["gathered"]:
        assert set(step["found"]) <= set(step["called_for"].values()), step
