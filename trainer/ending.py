"""How a run ends early. No jax is imported here: the launcher asks about errors of any command."""

from typing import Any, Protocol, runtime_checkable


class Stopped(Exception):
    """A signal ended the run after a step, and the state is saved; `exit_code` is 130 (Ctrl-C) or 143
    (SIGTERM).
    """

    def __init__(self, signal_name: str, step: int):
        super().__init__(f"stopped by {signal_name} after step {step}; the state is saved")
        # A shell reports 128 + the signal's number: SIGINT is 2, SIGTERM 15.
        self.exit_code = 130 if signal_name == "SIGINT" else 143


class Diverged(Exception):
    """Loss or gradient norm is still NaN or infinite after `max_rollbacks` rollbacks, or a device computes
    wrong numbers; restarting would not help.
    """


# A protocol, since the module of `Hosts` imports jax.
@runtime_checkable
class Peers(Protocol):
    """The processes of a run, as one of them sees them; see `trainer.cluster.hosts.Hosts`."""

    process: int

    def lost(self) -> Any:
        """A view that names a process that stopped answering; None = all answer."""
        ...

    def wait_for_lost(self) -> Any:
        """The same, after waiting long enough to notice a process that died just now."""
        ...

    def leave(self, fault: str, code: int) -> None:
        """Tell the others that this process ends, with its exit code."""
        ...


# The peers of the loop that runs, or that an error has just ended. Empty in a run of one process, and outside
# of a loop. A list only so that it can be changed in place.
peers_under_way: list[Peers] = []


def present_peers() -> Peers | None:
    """The peers of the loop that runs or that an error ended; None if there are none."""
    return peers_under_way[-1] if peers_under_way else None
