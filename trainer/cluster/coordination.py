"""How the processes of a run communicate beside training: small collectives, jax's coordination service."""

from typing import Any

import jax
import numpy as np

# private: jax has no public name for the client of its coordination service
from jax._src import distributed
from jax.experimental import multihost_utils


def is_first() -> bool:
    """Whether this is process 0, which alone writes files that are not sharded over processes."""
    return jax.process_index() == 0


def all_say(*numbers: int) -> np.ndarray:
    """Gather the numbers of every process as [process, number]; a collective, so all processes must call it.

    With a single process nothing is compiled or sent.
    """
    own = np.array(numbers, np.int32)
    if jax.process_count() == 1:
        return own[None]
    return multihost_utils.process_allgather(own)


def first_says(*numbers: int) -> list[int]:
    """The numbers of process 0, in every process; a collective.

    Two processes may read different things from a disk at slightly different times. A decision on which
    collectives depend is therefore made by process 0 and sent to the others.
    """
    return [int(n) for n in all_say(*numbers)[0]]


def client_of_several() -> Any:
    """The client of jax's coordination service, a key-value store; None in a run of one process."""
    state = distributed.global_state
    return state.client if state.num_processes > 1 else None
