"""Settings of the checks of processes and devices during training."""

from pydantic import BaseModel, NonNegativeInt, PositiveFloat


class HealthChecks(BaseModel, frozen=True, extra="forbid", strict=True):
    """How long a step may take, and how often devices are checked for wrong results.

    Attributes:
        hang_s: A step that takes longer ends the process (exit code 75), after the stacks of all threads have
            been written to a file. None = wait forever.
        sdc_every: Steps between two checks for silent data corruption, that is devices that compute wrong
            results and report no error. 0 = never.
    """

    hang_s: PositiveFloat | None = 600.0
    sdc_every: NonNegativeInt = 0
