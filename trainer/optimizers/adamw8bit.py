"""AdamW with moments of 8 bits (Dettmers et al. 2021)."""

from typing import Any, ClassVar

import jax.numpy as jnp
import optax
from pydantic import BaseModel, PositiveFloat

from model.sharding import letters_of
from trainer.optimizers.common.by_leaf import by_leaf, moved
from trainer.optimizers.common.eight_bit import blocks_of, quantized, restored
from trainer.optimizers.common.rule import Rate


class AdamW8bit(BaseModel, frozen=True, extra="forbid", strict=True):
    """AdamW whose moments are kept in 8 bits, block by block; vectors and small matrices keep 32. State:
    2.25 bytes a parameter.
    """

    b1: Rate = 0.9
    b2: Rate = 0.95
    eps: PositiveFloat = 1e-8

    supports_mup: ClassVar[bool] = True

    def core(self) -> optax.GradientTransformation:
        return scale_by_adam8bit(self.b1, self.b2, self.eps)


def scale_by_adam8bit(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Adam's direction from moments that are read from 8 bits, and written back after use."""

    def init(name: str, x: Any) -> dict[str, Any]:
        return _stored(name, "mu", jnp.zeros_like(x), jnp.int8) | _stored(
            name, "nu", jnp.zeros_like(x), jnp.uint8
        )

    def update(
        name: str, gradient: Any, state: dict[str, Any], _: Any, count: Any
    ) -> tuple[Any, dict[str, Any]]:
        mu, mean = moved(_read(name, "mu", state, gradient.shape), gradient, b1, count)
        nu, square = moved(_read(name, "nu", state, gradient.shape), gradient**2, b2, count)
        return mean / (jnp.sqrt(square) + eps), _stored(name, "mu", mu, jnp.int8) | _stored(
            name, "nu", nu, jnp.uint8
        )

    return by_leaf(init, update)


def _stored(name: str, moment: str, x: Any, dtype: Any) -> dict[str, Any]:
    """A moment of a parameter as the state holds it; the letters of its scales count blocks along one
    dimension.
    """
    suffix, blocks = name.rsplit("_", 1)[-1], blocks_of(name, x.shape)
    if blocks is None:
        return {f"{moment}_{suffix}": x}
    codes, scale = quantized(x, letters_of(name), blocks, dtype)
    return {f"{moment}_code_{suffix}": codes, f"{moment}_scale_{suffix}": scale}


def _read(name: str, moment: str, state: dict[str, Any], shape: tuple[int, ...]) -> Any:
    suffix, blocks = name.rsplit("_", 1)[-1], blocks_of(name, shape)
    if blocks is None:
        return state[f"{moment}_{suffix}"]
    return restored(
        state[f"{moment}_code_{suffix}"], state[f"{moment}_scale_{suffix}"], letters_of(name), blocks
    )
