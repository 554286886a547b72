"""Heads: parameters that an objective adds to a model, such as the `reward_D` of a reward model."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from model.adapt import Adaptation
from model.api import Model, Params, key_of
from model.sharding import letters_of, spec


def with_heads(model: Model, heads: Sequence[str], *, width: int, dtype: str) -> Model:
    """The model with `heads` among its parameters: vectors of the model's width, which the objective reads by
    name, drawn with variance 1 / (width + 1) (Stiennon et al. 2020, appendix B.1).

    Raises:
        ValueError: a head's letters are not D.
    """
    if not heads:
        return model
    for name in heads:
        if letters_of(name) != "D":
            raise ValueError(
                f"objective.heads names {name!r}; a head is a vector of the model's width: name_D"
            )

    def init(key: Key[Array, ""]) -> Params:
        layout = spec("D", (width,), at_rest=True)

        def drawn(name: str) -> Array:
            # A key by name: a head's values do not depend on which other heads there are.
            x_D = jax.random.normal(key_of(key, name), (width,), out_sharding=layout)
            return (x_D * (width + 1) ** -0.5).astype(jnp.dtype(dtype))

        return {**model.init(key), **{name: drawn(name) for name in heads}}

    return model._replace(init=init)


class TrainedHeads(NamedTuple):
    """An adaptation that trains all of every head, whatever `inner` does with the other parameters."""

    inner: Adaptation
    heads: tuple[str, ...]

    def split(
        self, params: Params, key: Key[Array, ""], *, rounds: int = 1
    ) -> tuple[Params, Params]:
        """Split parameters into (trainable, frozen); heads are always trainable."""
        heads, body = self._heads_and_body(params)
        trainable, frozen = self.inner.split(body, key, rounds=rounds)
        return {**trainable, **heads}, frozen

    def merge(self, trainable: Params, frozen: Params) -> Params:
        """The parameters that the model reads."""
        heads, body = self._heads_and_body(trainable)
        # `inner` never saw the heads in `split`, so it must not merge them either.
        return {**self.inner.merge(body, frozen), **heads}

    def dense(self, params: Params) -> Params:
        """Merged parameters as plain arrays; heads are plain arrays already."""
        return self.inner.dense(params)

    def reference(self, frozen: Params) -> Params | None:
        """The parameters before training without the heads, where the frozen ones determine them."""
        return self.inner.reference(frozen)

    def _heads_and_body(self, params: Params) -> tuple[Params, Params]:
        heads = {name: params[name] for name in self.heads}
        return heads, {name: x for name, x in params.items() if name not in self.heads}


def fitted(params: Params, model: Model, key: Key[Array, ""], heads: Sequence[str]) -> Params:
    """Parameters of another phase with `heads`: those that phase lacks are drawn, heads of another objective
    are dropped.
    """
    wanted = jax.eval_shape(model.init, key).keys()
    missing = [name for name in heads if name not in params]
    body = {name: x for name, x in params.items() if name in wanted}
    if not missing:
        return body

    def new_heads(key: Key[Array, ""]) -> Params:
        params = model.init(key_of(key, "init"))
        return {name: params[name] for name in missing}

    # Under jit XLA computes only what is returned of `init`.
    return {**body, **jax.jit(new_heads)(key)}
