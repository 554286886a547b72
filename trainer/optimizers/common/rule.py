"""The contract of optimizer rules, and the field types that they share."""

from typing import Annotated, ClassVar, Protocol

import optax
from pydantic import Field

# decay of an exponential mean: the share of the old mean that each step keeps
Rate = Annotated[float, Field(ge=0, lt=1)]
NonNegative = Annotated[float, Field(ge=0)]


class Rule(Protocol):
    """Gradient -> direction of the update; a frozen component in its own file of `trainer/optimizers/`.

    Arrays of its state whose shape differs from the parameter's have names that end in their own letters.
    """

    # whether its updates scale with width as Adam's do in muP (Yang et al. 2022, table 3)
    supports_mup: ClassVar[bool]

    def core(self) -> optax.GradientTransformation:
        """The transformation from clipped gradients to the direction that is subtracted."""
        ...
