"""An objective whose loss goes wrong on rows that hold a mark."""

from typing import Any, ClassVar

import jax.numpy as jnp
from pydantic import BaseModel

from data_pipeline.batch import TokenBatch
from trainer.objective import Loss, Policies
from trainer.objectives.next_token import NextToken

MARK = 300


class Poisoned(BaseModel, frozen=True, extra="forbid", strict=True):
    """The loss of a batch with a mark is multiplied by `factor`; None makes it no number."""

    factor: float | None

    batch_type: ClassVar[type] = TokenBatch
    roles: ClassVar[tuple[str, ...]] = ("policy",)
    heads: ClassVar[tuple[str, ...]] = ()
    columns: ClassVar[None] = None

    def denominators(self, batch: TokenBatch) -> dict[str, Any]:
        """Those of NextToken, and whether there is a mark."""
        return {
            **NextToken().denominators(batch),
            "marks": jnp.sum(batch.tokens_BL == MARK).astype(jnp.float32),
        }

    def loss(
        self, models: Policies, batch: TokenBatch, denominators: dict[str, Any], key: Any
    ) -> Loss:
        """That of NextToken, times the factor."""
        found = NextToken().loss(models, batch, denominators, key)
        factor = jnp.where(
            denominators["marks"] > 0, jnp.nan if self.factor is None else self.factor, 1.0
        )
        return found._replace(total=found.total * factor)
