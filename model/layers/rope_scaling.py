"""How rotary frequencies are stretched for contexts longer than those of the first training."""

import math
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float
from pydantic import BaseModel, PositiveFloat, PositiveInt


class Linear(BaseModel, frozen=True, extra="forbid", strict=True):
    """All frequencies divided by `factor` (Chen et al. 2023, position interpolation)."""

    type: Literal["linear"] = "linear"
    factor: PositiveFloat

    def stretch(
        self, frequencies_A2: Float[Array, "A2"], *, theta: float, A: int
    ) -> Float[Array, "A2"]:
        """Every frequency by the factor lower, as if positions were closer together."""
        return frequencies_A2 / self.factor

    def factor_of_tables(self) -> float:
        """Cosines and sines stay as they are."""
        return 1.0


class Llama3(BaseModel, frozen=True, extra="forbid", strict=True):
    """Long waves divided by `factor`, short ones kept, a smooth passage between (Llama 3.1; Grattafiori et
    al. 2024).
    """

    type: Literal["llama3"] = "llama3"
    factor: PositiveFloat
    low_freq_factor: PositiveFloat
    high_freq_factor: PositiveFloat
    original_context: PositiveInt

    def stretch(
        self, frequencies_A2: Float[Array, "A2"], *, theta: float, A: int
    ) -> Float[Array, "A2"]:
        """A wave that fits `low_freq_factor` times or less into the original context is long,
        `high_freq_factor` times or more short.
        """
        # a frequency f turns once in 2π / f positions
        turns_A2 = self.original_context * frequencies_A2 / (2 * math.pi)
        width = self.high_freq_factor - self.low_freq_factor
        # 0 for a long wave, 1 for a short one
        short_A2 = jnp.clip((turns_A2 - self.low_freq_factor) / width, 0, 1)
        return frequencies_A2 * (short_A2 + (1 - short_A2) / self.factor)

    def factor_of_tables(self) -> float:
        """Cosines and sines stay as they are."""
        return 1.0


class YaRN(BaseModel, frozen=True, extra="forbid", strict=True):
    """Interpolation of long waves with a ramp by number of turns, and larger scores (Peng et al. 2023, eq.
    17-22).

    `table_factor` multiplies cosines and sines; None is the paper's 0.1·ln(factor) + 1.
    """

    type: Literal["yarn"] = "yarn"
    factor: PositiveFloat
    original_context: PositiveInt
    beta_fast: PositiveFloat = 32.0
    beta_slow: PositiveFloat = 1.0
    table_factor: PositiveFloat | None = None
    truncate: bool = True  # whole numbers as ends of the ramp, as the authors' code has it

    def stretch(
        self, frequencies_A2: Float[Array, "A2"], *, theta: float, A: int
    ) -> Float[Array, "A2"]:
        """Frequencies that turn more than `beta_fast` times in the original context are kept, fewer than
        `beta_slow` interpolated.
        """

        def index(turns: float) -> float:
            # of the frequency that turns so often in the original context (eq. 18 solved for it)
            return (
                A * math.log(self.original_context / (turns * 2 * math.pi)) / (2 * math.log(theta))
            )

        low = index(self.beta_fast)
        high = index(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        # A - 1, though there are only A / 2 frequencies, is the bound in the authors' code
        low, high = max(low, 0), min(high, A - 1)
        indices_A2 = jnp.arange(A // 2, dtype=jnp.float32)
        # 1e-3: where the ends meet the ramp is a step, as in the authors' code
        ramp_A2 = jnp.clip((indices_A2 - low) / max(high - low, 1e-3), 0, 1)
        return frequencies_A2 * (1 - ramp_A2) + frequencies_A2 / self.factor * ramp_A2

    def factor_of_tables(self) -> float:
        """Cosines and sines of queries and keys grow, and with them the scores by its square."""
        if self.table_factor is not None:
            return self.table_factor
        # eq. 22: the temperature of the softmax, divided between queries and keys by a square root
        return yarn_growth(self.factor, 1.0)


def yarn_growth(factor: float, coefficient: float) -> float:
    """0.1 · coefficient · ln(factor) + 1, and 1 where nothing is stretched."""
    return 1.0 if factor <= 1 else 0.1 * coefficient * math.log(factor) + 1.0


Scaling = Linear | Llama3 | YaRN
