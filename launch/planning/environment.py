"""Environment variables of a process that plans, set before jax is imported."""

import os
import re

SETTINGS = {
    "JAX_PLATFORMS": "cpu",  # nothing runs here, so accelerators are left to other processes
    "TPU_SKIP_MDS_QUERY": "1",  # else libtpu asks the network which machine it is on
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",  # any will do; without one libtpu prints complaints
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_MIN_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # else libtpu's lock file allows one plan at a time
}


def quiet_environment() -> None:
    """Have this process compile for absent chips, and use none of this machine's."""
    # Not setdefault: a plan must not use the accelerator that the user has set for training.
    os.environ.update(SETTINGS)
    # Programs for absent chips cannot be read back from jax's cache.
    os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
    # libtpu's XLA may not know flags of the CPU compiler.
    os.environ["XLA_FLAGS"] = re.sub(r"--xla_cpu_\S+", "", os.environ.get("XLA_FLAGS", "")).strip()
