"""AdamW with moments of 8 bits (Dettmers et al. 2021)."""

from typing import Any, ClassVar

import jax.numpy as jnp
import optax
from pydantic import BaseModel, PositiveFloat

from model.sharding import letters_of
from trainer.optimizers.common.by_leaf import by_leaf, ema_update
from trainer.optimizers.common.eight_bit import blocks_of, quantized, restored
from trainer.optimizers.common.rule import Rate


class AdamW8bit(BaseModel, frozen=True, extra="forbid", strict=True):
    """AdamW whose moments are stored in 8 bits, block by block; vectors and small matrices keep 32.

    State: at most 2.25 bytes a parameter, two codes and their share of two scales (see common/eight_bit.py).
    """

    b1: Rate = 0.9
    b2: Rate = 0.95
    eps: PositiveFloat = 1e-8

    supports_mup: ClassVar[bool] = True

    def core(self) -> optax.GradientTransformation:
        return scale_by_adam8bit(self.b1, self.b2, self.eps)


def scale_by_adam8bit(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Adam's direction from moments in 8 bits: dequantized, updated, used, and only then quantized again.

    The state of a parameter `w_DF` with blocks is

        mu_code_DF  int8      mu_scale_DF  float32, a number for each block
        nu_code_DF  uint8     nu_scale_DF

    and without blocks `mu_DF` and `nu_DF` in float32.
    """

    def init(name: str, x: Any) -> dict[str, Any]:
        # the mean needs a sign; the mean of squares does not, and uses that bit for precision
        zeros = jnp.zeros_like(x)
        return _stored(name, "mu", zeros, jnp.int8) | _stored(name, "nu", zeros, jnp.uint8)

    def update(
        name: str, gradient: Any, state: dict[str, Any], _: Any, count: Any
    ) -> tuple[Any, dict[str, Any]]:
        mu, mu_corrected = ema_update(_read(name, "mu", state, gradient.shape), gradient, b1, count)
        nu, nu_corrected = ema_update(
            _read(name, "nu", state, gradient.shape), gradient**2, b2, count
        )
        # from the exact moments: quantization affects only the next step
        direction = mu_corrected / (jnp.sqrt(nu_corrected) + eps)
        return direction, _stored(name, "mu", mu, jnp.int8) | _stored(name, "nu", nu, jnp.uint8)

    return by_leaf(init, update)


def _stored(name: str, moment: str, x: Any, dtype: Any) -> dict[str, Any]:
    """A moment as the state stores it: codes and scales of blocks, or x itself if it is not quantized.

    The scales have the parameter's letters too: along one of them they count blocks instead of numbers.
    """
    suffix = name.rsplit("_", 1)[-1]  # letters such as NDHA, from which the state's layout is read
    blocks = blocks_of(name, x.shape)
    if blocks is None:
        return {f"{moment}_{suffix}": x}
    # scales are float32, so that a block's largest number is restored exactly
    codes, scale = quantized(x, letters_of(name), blocks, dtype)
    return {f"{moment}_code_{suffix}": codes, f"{moment}_scale_{suffix}": scale}


def _read(name: str, moment: str, state: dict[str, Any], shape: tuple[int, ...]) -> Any:
    """The inverse of `_stored`, up to quantization."""
    suffix = name.rsplit("_", 1)[-1]
    blocks = blocks_of(name, shape)
    if blocks is None:
        return state[f"{moment}_{suffix}"]
    # the blocks depend on name and shape alone, so they are those of `_stored`
    codes = state[f"{moment}_code_{suffix}"]
    return restored(codes, state[f"{moment}_scale_{suffix}"], letters_of(name), blocks)
