"""How likely a model finds the right answers to questions."""

from collections.abc import Sequence
from functools import partial
from itertools import batched

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from data_pipeline.batch import TokenBatch
from data_pipeline.tasks.asked import Asked, gold_rows
from model.api import Model, Params
from model.sharding import n_parts
from trainer.batches.layout import Layout
from trainer.objective import score

LENGTHS = 128  # rows are as long as a multiple of this, which any mesh divides


def answer_loss(model: Model, params: Params, questions: Sequence[Asked], mesh: Mesh, *, rows: int) -> float:
    """Negative log-likelihood of the right answers, nats a token of all together; `rows` at a time, or as
    many as the mesh needs.
    """
    longest = max(len(asked.prompt) + len(asked.gold) for asked in questions)
    n_rows = -(-min(rows, len(questions)) // n_parts("B")) * n_parts("B")
    shape = n_rows, -(-longest // LENGTHS) * LENGTHS
    layout, total, n = Layout.of(TokenBatch, dict.fromkeys(TokenBatch._fields, shape), mesh), 0.0, 0.0
    for part in batched(questions, n_rows):
        mine = {name: x[list(layout.offsets), layout.positions] for name, x in gold_rows(part, shape).items()}
        nll, weight = jax.device_get(_nll(params, layout.place(mine), model=model))
        total, n = total + float(nll), n + float(weight)
    return total / n


@partial(jax.jit, static_argnames="model")
def _nll(params: Params, batch: TokenBatch, *, model: Model) -> tuple[jax.Array, jax.Array]:
    scores, _ = score({"policy": (model, params)}, "policy", batch)
    return -jnp.sum(scores.logp_BL * batch.weight_BL), jnp.sum(batch.weight_BL)
