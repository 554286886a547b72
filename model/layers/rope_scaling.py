"""Scaling of rotary frequencies for contexts beyond those of pretraining, and the heads that they fit."""

import math
from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float
from pydantic import BaseModel, PositiveFloat, PositiveInt, model_validator


class Linear(BaseModel, frozen=True, extra="forbid", strict=True):
    """All frequencies divided by `factor` (Chen et al. 2023, position interpolation)."""

    type: Literal["linear"] = "linear"
    factor: PositiveFloat

    def stretch(
        self, frequencies_A2: Float[Array, "A2"], *, theta: float, A: int
    ) -> Float[Array, "A2"]:
        """All frequencies divided by the factor, as if positions were closer together."""
        return frequencies_A2 / self.factor

    def factor_of_tables(self) -> float:
        """Cosines and sines stay as they are."""
        return 1.0


class Llama3(BaseModel, frozen=True, extra="forbid", strict=True):
    """Frequencies of long wavelengths are divided by `factor`, those of short ones kept, with a smooth
    ramp in between (Llama 3.1; Grattafiori et al. 2024).
    """

    type: Literal["llama3"] = "llama3"
    factor: PositiveFloat
    low_freq_factor: PositiveFloat
    high_freq_factor: PositiveFloat
    original_context: PositiveInt

    @model_validator(mode="after")
    def _ramp_rises(self) -> "Llama3":
        low, high = self.low_freq_factor, self.high_freq_factor
        if high <= low:
            raise ValueError(
                f"high_freq_factor={high} is not above low_freq_factor={low}; exchange them"
            )
        return self

    def stretch(
        self, frequencies_A2: Float[Array, "A2"], *, theta: float, A: int
    ) -> Float[Array, "A2"]:
        """A wavelength is long if it fits at most `low_freq_factor` times into the original context, and
        short if it fits at least `high_freq_factor` times.
        """
        # a frequency f has the wavelength 2π / f positions
        turns_A2 = self.original_context * frequencies_A2 / (2 * math.pi)
        width = self.high_freq_factor - self.low_freq_factor
        # 0 for long wavelengths, 1 for short ones
        short_A2 = jnp.clip((turns_A2 - self.low_freq_factor) / width, 0, 1)
        return frequencies_A2 * (short_A2 + (1 - short_A2) / self.factor)

    def factor_of_tables(self) -> float:
        """Cosines and sines stay as they are."""
        return 1.0


class YaRN(BaseModel, frozen=True, extra="forbid", strict=True):
    """Interpolation of low frequencies, with a ramp by rotations in the original context, and larger scores
    (Peng et al. 2023, eq. 17-22).

    `table_factor` multiplies cosines and sines; None is the paper's 0.1·ln(factor) + 1.
    """

    type: Literal["yarn"] = "yarn"
    factor: PositiveFloat
    original_context: PositiveInt
    beta_fast: PositiveFloat = 32.0
    beta_slow: PositiveFloat = 1.0
    table_factor: PositiveFloat | None = None
    truncate: bool = True  # round the ends of the ramp to integers, as the authors' code does

    def stretch(
        self, frequencies_A2: Float[Array, "A2"], *, theta: float, A: int
    ) -> Float[Array, "A2"]:
        """Frequencies with more than `beta_fast` rotations in the original context are kept, those with fewer
        than `beta_slow` divided by `factor`.
        """

        def index(turns: float) -> float:
            # index of the frequency with this many rotations in the original context (eq. 18, solved for it)
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
        # 1e-3: if both ends are equal the ramp is a step, as in the authors' code
        ramp_A2 = jnp.clip((indices_A2 - low) / (high - low or 1e-3), 0, 1)
        return frequencies_A2 * (1 - ramp_A2) + frequencies_A2 / self.factor * ramp_A2

    def factor_of_tables(self) -> float:
        """Cosines and sines are multiplied by this factor, and so scores by its square."""
        if self.table_factor is not None:
            return self.table_factor
        # eq. 22: the square root of the softmax's inverse temperature, as queries and keys each get one
        return yarn_growth(self.factor, 1.0)


class LongRoPE(BaseModel, frozen=True, extra="forbid", strict=True):
    """Each frequency divided by a factor of its own, the same for texts of every length (Ding et al. 2024,
    whose second list, for short texts, we do not have).
    """

    type: Literal["longrope"] = "longrope"
    factors: tuple[PositiveFloat, ...]  # A/2 of them, from the fastest frequency to the slowest
    original_context: PositiveInt
    table_factor: PositiveFloat = 1.0

    def stretch(
        self, frequencies_A2: Float[Array, "A2"], *, theta: float, A: int
    ) -> Float[Array, "A2"]:
        """Each frequency divided by its factor."""
        return frequencies_A2 / jnp.asarray(self.factors, jnp.float32)

    def factor_of_tables(self) -> float:
        """Cosines and sines are multiplied by this factor."""
        return self.table_factor


def yarn_growth(factor: float, coefficient: float) -> float:
    """0.1 · coefficient · ln(factor) + 1, or 1 for factors up to 1."""
    return 1.0 if factor <= 1 else 0.1 * coefficient * math.log(factor) + 1.0


Scaling = Linear | Llama3 | YaRN | LongRoPE


def check_rotation(scaling: Scaling | None, *, width: int, name: str) -> None:
    """Check that `width` entries of a head, the field `name`, form pairs for which there are factors.

    Raises:
        ValueError: they do not.
    """
    if width % 2:
        raise ValueError(
            f"{name}={width} is odd; rotary positions turn pairs, choose an even width"
        )
    if isinstance(scaling, LongRoPE) and len(scaling.factors) != width // 2:
        n = len(scaling.factors)
        raise ValueError(
            f"rope_scaling.factors has {n} numbers, and {name}={width} has {width // 2} frequencies; "
            "give one for each"
        )


def check_heads(sizes: Any) -> None:
    """Check that query heads form equal groups, and that a head's entries form pairs to rotate; `sizes` has
    the fields of an architecture that rotates whole heads.

    Raises:
        ValueError: they do not.
    """
    if sizes.heads % sizes.kv_heads:
        raise ValueError(
            f"heads={sizes.heads} is not a multiple of kv_heads={sizes.kv_heads}; choose equal groups"
        )
    check_rotation(sizes.rope_scaling, width=sizes.head_width, name="head_width")
