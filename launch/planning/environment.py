"""The process of a plan, before jax is imported."""

import os
import re

ASIDE = {
    "JAX_PLATFORMS": "cpu",  # nothing runs: whatever accelerator is here is left to others
    "TPU_SKIP_MDS_QUERY": "1",  # libtpu would ask the network which machine it is on
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",  # any: without one libtpu complains on standard error
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_MIN_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # else two plans at one time refuse one another by a lock file
}


def quiet_environment() -> None:
    """Compile for absent chips, and leave those that are here alone; flags that are meant for this
    machine's CPU are taken out.
    """
    # Not setdefault: a plan must not touch the accelerator that a user set for training.
    os.environ.update(ASIDE)
    os.environ.pop(
        "JAX_COMPILATION_CACHE_DIR", None
    )  # programs for absent chips cannot be read back from it
    # flags of the CPU's compiler, which libtpu's may not know
    os.environ["XLA_FLAGS"] = re.sub(r"--xla_cpu_\S+", "", os.environ.get("XLA_FLAGS", "")).strip()
