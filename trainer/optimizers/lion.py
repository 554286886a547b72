"""Lion (Chen et al. 2023, program 1)."""

from typing import ClassVar

import optax
from pydantic import BaseModel

from trainer.optimizers.common.rule import Rate


class Lion(BaseModel, frozen=True, extra="forbid", strict=True):
    """Each number moves by the sign of its mean gradient.

    It needs a learning rate 3 to 10 times smaller than AdamW's, and a weight decay as much larger. State: 4
    bytes a parameter.
    """

    b1: Rate = 0.9
    b2: Rate = 0.99

    # a sign has the same magnitude at every width, like Adam's direction
    supports_mup: ClassVar[bool] = True

    def core(self) -> optax.GradientTransformation:
        return optax.scale_by_lion(self.b1, self.b2)
