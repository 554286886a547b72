"""What an optimizer's rule must say, and the field types that rules share."""

from typing import Annotated, ClassVar, Protocol

import optax
from pydantic import Field

# decay of an exponential mean: the share that stays at each step
Rate = Annotated[float, Field(ge=0, lt=1)]
NonNegative = Annotated[float, Field(ge=0)]


class Rule(Protocol):
    """Gradient -> direction; a frozen component in its own file of `trainer/optimizers/`.

    Arrays of its state that have another shape than their parameter end in letters of their own.
    """

    # whether the scaling of Yang et al. 2022 for Adam (table 8) holds for its updates
    supports_mup: ClassVar[bool]

    def core(self) -> optax.GradientTransformation:
        """The transformation from clipped gradients to the direction that is subtracted."""
        ...
