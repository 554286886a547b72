"""What launch asks of every phase of a job: a Run, Prepare, and those that users bring by `--import`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Phase(Protocol):
    """A component that a job names: a Run, which the trainer carries out, or an Executable."""

    def problems(self, job: Mapping[str, Any]) -> list[str]:
        """Rules across its fields and the phases of its job, a sentence for each that is broken."""
        ...

    def fingerprint(self) -> str:
        """What it is known by when it is finished: with another one it is made again."""
        ...

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        """Its fields as plain values; every pydantic model has this."""
        ...


# All members are methods, `needs_devices` too: `issubclass` refuses a Protocol that has others.
@runtime_checkable
class Executable(Phase, Protocol):
    """A phase that carries itself out."""

    def needs_devices(self) -> bool:
        """Whether all processes of a cluster carry it out; else process 0 does, without a device."""
        ...

    def execute(self, folder: Path, *, job_folder: Path, **offered: Any) -> None:
        """Do the work, and leave its results in `folder`.

        What else launch offers (`say`, `progress`, `allow_change` …) goes to those keywords that it names.
        """
        ...


@runtime_checkable
class Foresees(Protocol):
    """A phase that can say before the job begins what would end it later."""

    def foreseen(self, folder: Path, before: Sequence[str]) -> list[str]:
        """A sentence for each input that is missing; `before` names the phases that come first. It writes
        nothing.
        """
        ...
