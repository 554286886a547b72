"""A loss by source and by byte of text: sums over the targets of a batch, as metrics are."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from model.sharding import spec
from trainer.objective import PerTarget


class Breakdown(NamedTuple):
    """`sources` in the order of `source_BL`; `n_bytes_V` are the bytes of UTF-8 that each vocabulary entry
    stands for.
    """

    sources: Sequence[str]
    n_bytes_V: np.ndarray

    def __call__(self, per_target: PerTarget | None, batch: Any) -> dict[str, tuple[Array, Array]]:
        """`loss/source/NAME` (nats a target) and `train/bits_per_byte`; nothing where an objective has no
        such targets.
        """
        if per_target is None:
            return {}
        weight_BL = per_target.weight_BL
        nll_BL = per_target.nll_BL * weight_BL
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


def made_up_byte_lengths(vocab_size: int) -> np.ndarray:
    """Bytes of every entry where there is no tokenizer: not all alike, or the compiler would fold away the
    look-up that a real step makes.
    """
    return 1 + np.arange(vocab_size, dtype=np.int32) % 7
