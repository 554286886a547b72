"""How a run ends early, in a file without jax: the launcher asks it about errors of commands that train
nothing.
"""

from typing import Any, Protocol, runtime_checkable


class Stopped(Exception):
    """A signal asked for the end, and the state is saved; `exit_code` is 130 for Ctrl-C and 143 for
    SIGTERM.
    """

    def __init__(self, signal_name: str, step: int):
        super().__init__(f"stopped by {signal_name} after step {step}; the state is saved")
        # 128 + the number of the signal (SIGINT is 2, SIGTERM 15), as a shell reports it.
        self.exit_code = 130 if signal_name == "SIGINT" else 143


class Diverged(Exception):
    """Loss or gradient norm is still NaN or infinite after `max_rollbacks` rollbacks, or devices compute
    wrong numbers.
    """


# A protocol, because the file of `Hosts` imports jax, which this one must not.
@runtime_checkable
class Peers(Protocol):
    """The processes of a run, as one of them sees them; see `trainer.cluster.hosts.Hosts`."""

    process: int

    def lost(self) -> Any:
        """Who is lost now; None = nobody."""
        ...

    def wait_for_lost(self) -> Any:
        """The same, after the time that it takes to see it."""
        ...

    def leave(self, fault: str, code: int) -> None:
        """Tell the others that this process ends, with its exit code."""
        ...


# of the loop that runs, or that an error has just ended; empty with one process or outside of a loop
peers_under_way: list[Peers] = []


def present_peers() -> Peers | None:
    """The processes of the loop under way, or of the one that an error ended."""
    return peers_under_way[-1] if peers_under_way else None
