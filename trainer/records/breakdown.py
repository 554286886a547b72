"""The loss by source and by byte of text, as sums over the targets of a batch."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from model.sharding import spec
from trainer.objective import PerTarget


class Breakdown(NamedTuple):
    """`sources` in the order of `source_BL`; `n_bytes_V` are the bytes of UTF-8 of each vocabulary entry."""

    sources: Sequence[str]
    n_bytes_V: np.ndarray

    def __call__(self, per_target: PerTarget | None, batch: Any) -> dict[str, tuple[Array, Array]]:
        """`loss/source/NAME` (nats a target) and `train/bits_per_byte`, each as (sum, weight); empty where
        the objective has no single tokens as targets.
        """
        if per_target is None:
            return {}
        weight_BL = per_target.weight_BL
        nll_BL = per_target.nll_BL * weight_BL
        metrics = {}
        if len(self.sources) > 1:  # with a single source its loss is loss/train
            for i, name in enumerate(self.sources):
                of_source_BL = batch.source_BL == i
                weight = jnp.sum(weight_BL * of_source_BL)
                metrics[f"loss/source/{name}"] = (jnp.sum(nll_BL * of_source_BL), weight)
        # a lookup in a replicated table; with explicit axes its result's layout has to be stated
        lengths_V = jnp.asarray(self.n_bytes_V, jnp.float32)
        layout = spec("BL", batch.targets_BL.shape)
        lengths_BL = lengths_V.at[batch.targets_BL].get(out_sharding=layout)
        n_bytes = jnp.sum(lengths_BL * (weight_BL > 0))
        metrics["train/bits_per_byte"] = (jnp.sum(nll_BL) / math.log(2), n_bytes)
        return metrics


def made_up_byte_lengths(vocab_size: int) -> np.ndarray:
    """Bytes of every vocabulary entry where there is no tokenizer.

    They differ, since from equal ones the compiler could fold away the lookup that a real step makes.
    """
    return 1 + np.arange(vocab_size, dtype=np.int32) % 7
