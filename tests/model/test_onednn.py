"""The launcher's flag for CPUs hands products to oneDNN; it has been seen to give wrong gradients of
attention written another way.
"""

import subprocess
import sys

import numpy as np

from launch.process.environment import ONEDNN
from tests.launch.command import environment


def test_gradients_are_the_same_with_the_launchers_flag_and_without(repository, tmp_path):
    found = {}
    for flag in ("true", "false"):
        env = {**environment(), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{ONEDNN}={flag}"}
        command = [sys.executable, "-m", "tests.model.onednn_probe", str(tmp_path / f"{flag}.npz")]
        subprocess.run(command, env=env, cwd=repository, check=True)
        found[flag] = np.load(tmp_path / f"{flag}.npz")
    np.testing.assert_allclose(found["true"]["loss"], found["false"]["loss"], rtol=1e-6)
    for name in found["false"].files:
        x, y = found["true"][name], found["false"][name]
        assert np.linalg.norm(x - y) <= 1e-5 * np.linalg.norm(y), name
