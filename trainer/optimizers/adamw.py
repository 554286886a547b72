"""AdamW (Loshchilov and Hutter 2019, algorithm 2)."""

from typing import ClassVar

import optax
from pydantic import BaseModel, PositiveFloat

from trainer.optimizers.common.rule import Rate


class AdamW(BaseModel, frozen=True, extra="forbid", strict=True):
    """Each number moves by its mean gradient divided by the root of its mean squared gradient.

    State: 8 bytes a parameter.
    """

    b1: Rate = 0.9
    # As in GPT-3 and Llama; Adam's own default 0.999 remembers a spike for a thousand steps.
    b2: Rate = 0.95
    eps: PositiveFloat = 1e-8

    supports_mup: ClassVar[bool] = True

    def core(self) -> optax.GradientTransformation:
        return optax.scale_by_adam(self.b1, self.b2, self.eps)
