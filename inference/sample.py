"""Sampling rules, from logits to the next token: components with `sample(keys_B, logits_BV)`.

The order is temperature, top-k, nucleus, as in Hugging Face and vLLM; the nucleus depends on the temperature.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key
from pydantic import BaseModel, field_validator
from pydantic_core import PydanticCustomError


class Greedy(BaseModel, frozen=True, extra="forbid", strict=True):
    """The most likely token; among equally likely ones the lowest id."""

    def logits(self, logits_BV: Float[Array, "B V"]) -> Float[Array, "B V"]:
        """Logits of the distribution that is sampled: 0 at the chosen token, -inf elsewhere."""
        # argmax takes the first of equal logits
        chosen_BV = jnp.argmax(logits_BV, -1, keepdims=True) == jnp.arange(logits_BV.shape[-1])
        return jnp.where(chosen_BV, 0.0, -jnp.inf)

    def sample(self, keys_B: Key[Array, "B"], logits_BV: Float[Array, "B V"]) -> Int[Array, "B"]:
        """The most likely token of each row; the keys are not used."""
        return jnp.argmax(logits_BV, -1)


class Sampler(BaseModel, frozen=True, extra="forbid", strict=True):
    """Random tokens from the softmax of logits / `temperature`, restricted to the `top_k` likeliest
    tokens and then to the nucleus of mass `top_p`.

    The nucleus (Holtzman et al. 2020) is the smallest set of likeliest tokens with mass `top_p` or more,
    measured after top-k has renormalised. Equal logits are kept or excluded together, so `top_k=2` of
    (1, 1, 1, 0) keeps three: no token is preferred for its id.
    """

    temperature: float
    top_k: int | None = None
    top_p: float | None = None

    @field_validator("temperature")
    @classmethod
    def _above_zero(cls, value: float) -> float:
        if not 0 < value < float("inf"):
            rule = "must be a finite number above 0; for the most likely token use Greedy"
            raise PydanticCustomError("temperature", rule)
        return value

    @field_validator("top_k")
    @classmethod
    def _at_least_one(cls, value: int | None) -> int | None:
        if value is not None and value < 1:
            rule = "must be at least 1; leave it out to keep all tokens"
            raise PydanticCustomError("top_k", rule)
        return value

    @field_validator("top_p")
    @classmethod
    def _is_mass(cls, value: float | None) -> float | None:
        if value is not None and not 0 < value <= 1:
            rule = "must be above 0 and at most 1; leave it out to keep all tokens"
            raise PydanticCustomError("top_p", rule)
        return value

    def logits(self, logits_BV: Float[Array, "B V"]) -> Float[Array, "B V"]:
        """Logits of the distribution that is sampled, in float32; -inf where a token is excluded. A softmax
        renormalises them.
        """
        logits_BV = logits_BV.astype(jnp.float32) / self.temperature
        if self.top_k is None and self.top_p is None:
            return logits_BV
        sorted_BV = -jnp.sort(-logits_BV, -1)  # descending
        if self.top_k is not None:
            # compared by value, not by rank, so that equal logits are kept or excluded together
            least_BV = sorted_BV[:, min(self.top_k, sorted_BV.shape[-1]) - 1, None]
            sorted_BV = jnp.where(sorted_BV >= least_BV, sorted_BV, -jnp.inf)
        if self.top_p is not None:
            sorted_BV = jnp.where(_mass_before(sorted_BV) < self.top_p, sorted_BV, -jnp.inf)
        # The kept logits are a prefix of the sorted ones; the last of them is the threshold for the unsorted.
        least_BV = jnp.min(
            sorted_BV, -1, where=jnp.isfinite(sorted_BV), initial=jnp.inf, keepdims=True
        )
        return jnp.where(logits_BV >= least_BV, logits_BV, -jnp.inf)

    def sample(self, keys_B: Key[Array, "B"], logits_BV: Float[Array, "B V"]) -> Int[Array, "B"]:
        """A token for each row, drawn with the row's own key, so independent of the other rows."""
        return jax.vmap(jax.random.categorical)(keys_B, self.logits(logits_BV))


def _mass_before(sorted_BV: Float[Array, "B V"]) -> Float[Array, "B V"]:
    """The total probability of all likelier tokens; below 1 for every token of nonzero probability, however
    the sum is rounded.
    """
    probs_BV = jax.nn.softmax(sorted_BV, -1)
    before_BV = jnp.cumsum(probs_BV, -1) - probs_BV
    # a float32 sum may round to 1 before the last token, which top_p=1 would then exclude
    below_one = 1 - jnp.finfo(before_BV.dtype).epsneg
    return jnp.where(probs_BV > 0, jnp.minimum(before_BV, below_one), 1.0)


def exclude(logits_BV: Float[Array, "B V"], allowed_V: Bool[Array, "V"]) -> Float[Array, "B V"]:
    """Logits with -inf at ids that may not be chosen: padding of the vocabulary, special ids."""
    return jnp.where(allowed_V, logits_BV, -jnp.inf)
