"""Parameters that an objective adds to a model, such as the `reward_D` of a reward model."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from model.adapt import Adaptation
from model.api import Model, Params, key_of
from model.sharding import letters_of, spec


def with_heads(model: Model, heads: Sequence[str], *, width: int, dtype: str) -> Model:
    """The model whose parameters also hold `heads`: vectors of the model's width, which the objective reads
    by their names, each drawn by its own with variance 1 / (width + 1) (Stiennon et al. 2020, appendix B.1).

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
            # A key by its name: another head added later does not change this one's values.
            x_D = jax.random.normal(key_of(key, name), (width,), out_sharding=layout)
            return (x_D * (width + 1) ** -0.5).astype(jnp.dtype(dtype))

        return {**model.init(key), **{name: drawn(name) for name in heads}}

    return model._replace(init=init)


class TrainedHeads(NamedTuple):
    """An adaptation that trains the heads whole, whatever it does with the rest: they are new."""

    inner: Adaptation
    heads: tuple[str, ...]

    def split(self, params: Params, key: Key[Array, ""]) -> tuple[Params, Params]:
        """Split parameters into (trainable, frozen); heads are always trainable."""
        heads, body = self._parted(params)
        trainable, frozen = self.inner.split(body, key)
        return {**trainable, **heads}, frozen

    def merge(self, trainable: Params, frozen: Params) -> Params:
        """The parameters that the model reads."""
        heads, body = self._parted(trainable)
        # The inner adaptation knows nothing of heads: it would look for their frozen part.
        return {**self.inner.merge(body, frozen), **heads}

    def dense(self, params: Params) -> Params:
        """Merged parameters as plain arrays; heads are such already."""
        return self.inner.dense(params)

    def reference(self, frozen: Params) -> Params | None:
        """The body before training, where the frozen parameters tell it; heads are new."""
        return self.inner.reference(frozen)

    def _parted(self, params: Params) -> tuple[Params, Params]:
        heads = {name: params[name] for name in self.heads}
        return heads, {name: x for name, x in params.items() if name not in self.heads}


def fitted(params: Params, model: Model, key: Key[Array, ""], heads: Sequence[str]) -> Params:
    """Parameters of another phase with `heads`, new ones where that phase had none, and without others."""
    wanted = jax.eval_shape(model.init, key).keys()  # heads of another objective are none of them
    missing = [name for name in heads if name not in params]
    body = {name: x for name, x in params.items() if name in wanted}
    if not missing:
        return body
    # Only what is used of `init` is computed under jit.
    new = jax.jit(lambda key: {name: model.init(key_of(key, "init"))[name] for name in missing})(
        key
    )
    return {**body, **new}
