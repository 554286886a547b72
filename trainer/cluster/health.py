"""What of a run's machines is watched while it trains."""

from pydantic import BaseModel, NonNegativeInt, PositiveFloat


class HealthChecks(BaseModel, frozen=True, extra="forbid", strict=True):
    """How long a step may take, and how often devices are checked for wrong results.

    Attributes:
        hang_s: A step that takes longer ends the process with all stacks written down (exit code 75); None
            waits for ever.
        sdc_every: Steps between two searches for silent data corruption: devices that compute wrong results
            and report no error. 0 = never.
    """

    hang_s: PositiveFloat | None = 600.0
    sdc_every: NonNegativeInt = 0
