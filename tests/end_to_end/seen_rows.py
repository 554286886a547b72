"""An objective that tells which rows a step was given, by `--import tests.end_to_end.seen_rows`."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt32
from pydantic import BaseModel

from data_pipeline.batch import TokenBatch
from trainer.objective import Loss, Policies
from trainer.objectives.next_token import NextToken


class SeenRows(BaseModel, frozen=True, extra="forbid", strict=True):
    """`NextToken`, with a metric `row/SLOT` for every row of the batch: 24 bits of a hash of all that the
    row holds.

    24, for float32 holds them exactly. Equal rows have equal hashes in whatever slot, process and batch
    they are. One micro-batch.
    """

    batch_type: ClassVar[type] = TokenBatch
    roles: ClassVar[tuple[str, ...]] = ("policy",)
    heads: ClassVar[tuple[str, ...]] = ()
    columns: ClassVar[None] = None

    def denominators(self, batch: TokenBatch) -> dict[str, Any]:
        """Those of `NextToken`."""
        return NextToken().denominators(batch)

    def loss(
        self, models: Policies, batch: TokenBatch, denominators: dict[str, Any], key: Any
    ) -> Loss:
        """The loss of `NextToken`, and the hashes among its metrics."""
        loss = NextToken().loss(models, batch, denominators, key)
        hash_B = hashes(batch)
        slots = jax.lax.broadcasted_iota(jnp.int32, hash_B.shape, 0)
        told = {
            f"row/{slot:02d}": (jnp.sum(jnp.where(slots == slot, hash_B, 0)), 1.0)
            for slot in range(len(hash_B))
        }
        return loss._replace(
            metrics={
                **loss.metrics,
                **{name: (x.astype(jnp.float32), weight) for name, (x, weight) in told.items()},
            }
        )


def hashes(batch: TokenBatch) -> UInt32[Array, " B"]:
    """Wraparound sums of field × number of the field and position, mixed as MurmurHash3 ends; the upper 24
    bits.
    """
    total_B = jnp.zeros(batch.tokens_BL.shape[0], jnp.uint32)
    for number, x_BL in enumerate(batch):
        bits_BL = jax.lax.bitcast_convert_type(x_BL, jnp.uint32)
        drawn_L = np.random.default_rng(number).integers(
            1 << 32, size=x_BL.shape[1], dtype=np.uint32
        ) | np.uint32(1)
        total_B = total_B + jnp.sum(bits_BL * drawn_L, axis=1, dtype=jnp.uint32)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        total_B = (total_B ^ (total_B >> shift)) * jnp.uint32(factor)
    return total_B >> 8


def seen(rows: list[dict[str, Any]]) -> list[int]:
    """The hashes of all rows of these steps, in order."""
    return [int(row[name]) for row in rows for name in sorted(row) if name.startswith("row/")]
