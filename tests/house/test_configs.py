"""Every launch config is built and checked before any device is touched, and says in its head what it
needs.
"""

import ast
import subprocess
import sys

import pytest

from launch.job.load import config_names, dump, load, validate
from launch.job.yaml import parse_yaml, to_yaml
from tests.house.repository import ROOT
from tests.launch.command import environment

PROBE = """
import sys
from launch.job.load import config_names, load
for name in config_names():
    load(name)
if "jax" in sys.modules:
    from jax._src import xla_bridge
    assert not xla_bridge.backends_are_initialized(), "a device was touched"
"""


def test_loading_the_configs_touches_no_device():
    done = subprocess.run(
        [sys.executable, "-c", PROBE], env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", config_names())
def test_a_config_is_read_back_equal_from_its_yaml(name):
    phases = load(name).phases
    assert validate(parse_yaml(to_yaml(dump(phases)), name), name) == phases


@pytest.mark.parametrize("name", config_names())
def test_a_config_begins_with_its_command(name):
    tree = ast.parse((ROOT / "launch" / "configs" / f"{name}.py").read_text())
    docstring = " ".join((ast.get_docstring(tree) or "").split())
    assert f"meshwright run {name}" in docstring
