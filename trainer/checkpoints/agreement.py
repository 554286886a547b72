"""What all processes must decide alike, because an operation of all of them follows."""

import jax
import numpy as np
from jax.experimental import multihost_utils


def of_all(*numbers: int) -> np.ndarray:
    """[process, number]: what every process says. All call it together; one process alone waits for
    nobody.
    """
    said = np.array(numbers, np.int32)
    return multihost_utils.process_allgather(said) if jax.process_count() > 1 else said[None]


def of_first(*numbers: int) -> list[int]:
    """What process 0 says."""
    return [int(n) for n in of_all(*numbers)[0]]


def is_first() -> bool:
    """Whether this is the process that looks after the folders."""
    return jax.process_index() == 0
