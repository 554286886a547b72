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

    State: 2.25 bytes a parameter.
    """

    b1: Rate = 0.9
    b2: Rate = 0.95
    eps: PositiveFloat = 1e-8

    supports_mup: ClassVar[bool] = True

    def core(self) -> optax.GradientTransformation:
        return scale_by_adam8bit(self.b1, self.b2, self.eps)


def scale_by_adam8bit(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Adam's direction from moments in 8 bits: read, updated, used, and only then rounded again.

    The state of a parameter `w_DF` with blocks is

        mu_code_DF  int8      mu_scale_DF  float32, a number for each block
        nu_code_DF  uint8     nu_scale_DF

    and without blocks `mu_DF` and `nu_DF` in float32.
    """

    def init(name: str, x: Any) -> dict[str, Any]:
        # signed for the mean; the mean of squares has no sign, and gains a bit
        zeros = jnp.zeros_like(x)
        return _stored(name, "mu", zeros, jnp.int8) | _stored(name, "nu", zeros, jnp.uint8)

    def update(
        name: str, gradient: Any, state: dict[str, Any], _: Any, count: Any
    ) -> tuple[Any, dict[str, Any]]:
        mu, mu_corrected = ema_update(_read(name, "mu", state, gradient.shape), gradient, b1, count)
        nu, nu_corrected = ema_update(
            _read(name, "nu", state, gradient.shape), gradient**2, b2, count
        )
        # the exact moments: rounding acts on the next step alone
        direction = mu_corrected / (jnp.sqrt(nu_corrected) + eps)
        return direction, _stored(name, "mu", mu, jnp.int8) | _stored(name, "nu", nu, jnp.uint8)

    return by_leaf(init, update)


def _stored(name: str, moment: str, x: Any, dtype: Any) -> dict[str, Any]:
    """A moment as the state holds it: codes and the scale of each block, or x itself where it has no blocks.

    The scales have the parameter's letters; along one dimension these count blocks.
    """
    suffix = name.rsplit("_", 1)[-1]
    # a suffix such as NDHA is what layouts are read off
    blocks = blocks_of(name, x.shape)
    if blocks is None:
        return {f"{moment}_{suffix}": x}
    # the scales are float32: a block's largest number is restored exactly
    codes, scale = quantized(x, letters_of(name), blocks, dtype)
    return {f"{moment}_code_{suffix}": codes, f"{moment}_scale_{suffix}": scale}


def _read(name: str, moment: str, state: dict[str, Any], shape: tuple[int, ...]) -> Any:
    """The inverse of `_stored`, but for rounding."""
    suffix = name.rsplit("_", 1)[-1]
    blocks = blocks_of(name, shape)
    if blocks is None:
        return state[f"{moment}_{suffix}"]
    # codes and scales were written by `_stored` for the same blocks, which depend on sizes alone
    codes = state[f"{moment}_code_{suffix}"]
    return restored(codes, state[f"{moment}_scale_{suffix}"], letters_of(name), blocks)
