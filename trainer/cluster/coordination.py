"""How the processes of a run agree: collectives over small numbers, and jax's coordination service."""

from typing import Any

import jax
import numpy as np
from jax._src import (
    distributed,
)  # jax has no public name for the client of its coordination service
from jax.experimental import multihost_utils


def is_first() -> bool:
    """Whether this is process 0, which alone writes the files of a run that are not sharded."""
    return jax.process_index() == 0


def all_say(*numbers: int) -> np.ndarray:
    """[process, number]: the numbers of every process; a collective, so all processes must call it.

    With one process nothing is compiled or sent.
    """
    own = np.array(numbers, np.int32)
    if jax.process_count() == 1:
        return own[None]
    return multihost_utils.process_allgather(own)


def first_says(*numbers: int) -> list[int]:
    """The numbers of process 0, in every process; a collective.

    What one process reads from a disk may differ from what another reads a moment later, so a decision that
    collectives follow from is taken by process 0 alone.
    """
    return [int(n) for n in all_say(*numbers)[0]]


def client_of_several() -> Any:
    """The client of jax's coordination service, a key-value store; None where this process is alone."""
    state = distributed.global_state
    return state.client if state.num_processes > 1 else None
