"""A loss by source and by byte of text: sums over the targets of a batch, as metrics are."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from model.sharding import spec

Targets = tuple[
    Float[Array, "B L"], Float[Array, "B L"]
]  # negative log-likelihood (nats) and weight of each target


class Breakdown(NamedTuple):
    """`sources` in the order of `source_BL`; `n_bytes_V` are the bytes of UTF-8 that each vocabulary entry
    stands for.
    """

    sources: Sequence[str]
    n_bytes_V: np.ndarray

    def __call__(self, targets: Targets | None, batch: Any) -> dict[str, tuple[Array, Array]]:
        """`loss/source/NAME` (nats a target) and `train/bits_per_byte`; nothing where an objective has no
        such targets.
        """
        if targets is None:
            return {}
        nll_BL, weight_BL = targets[0] * targets[1], targets[1]
        found = {}
        for i, name in enumerate(self.sources if len(self.sources) > 1 else ()):
            mine_BL = batch.source_BL == i
            found[f"loss/source/{name}"] = jnp.sum(nll_BL * mine_BL), jnp.sum(weight_BL * mine_BL)
        lengths_BL = (
            jnp.asarray(self.n_bytes_V, jnp.float32)
            .at[batch.targets_BL]
            .get(out_sharding=spec("BL", batch.targets_BL.shape))
        )
        n_bytes = jnp.sum(lengths_BL * (weight_BL > 0))
        return found | {"train/bits_per_byte": (jnp.sum(nll_BL) / math.log(2), n_bytes)}
