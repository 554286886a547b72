"""The loss of the right answers to questions under a model."""

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
from trainer.scores import score

LENGTHS = 128  # rows are as long as a multiple of this, which any mesh divides


def answer_loss(
    model: Model, params: Params, questions: Sequence[Asked], mesh: Mesh, *, rows: int
) -> float:
    """Negative log-likelihood of the right answers, in nats per token over all of them; `rows` questions are
    computed at a time, rounded up to what the mesh divides.
    """
    longest = max(len(asked.prompt) + len(asked.gold) for asked in questions)
    # Both rounded up: rows to the devices that divide them, positions so that few programs are compiled.
    n_rows = _rounded_up(min(rows, len(questions)), n_parts("B"))
    length = _rounded_up(longest, LENGTHS)
    layout = Layout(TokenBatch, {"B": n_rows, "L": length}, mesh)
    # Added on the host in float64, as held-out losses are.
    total = 0.0
    n = 0.0
    for part in batched(questions, n_rows):
        rows_BL = gold_rows(part, (n_rows, length))
        # Every process places its own rows and positions.
        own_rows = list(layout.offsets)
        host_rows = {name: x[own_rows, layout.positions] for name, x in rows_BL.items()}
        batch = layout.place(host_rows)
        # Sums, not means: batches differ in their number of answer tokens.
        nll, weight = jax.device_get(_nll(params, batch, model=model))
        total += float(nll)
        n += float(weight)
    return total / n


def _rounded_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


@partial(jax.jit, static_argnames="model")
def _nll(params: Params, batch: TokenBatch, *, model: Model) -> tuple[jax.Array, jax.Array]:
    scores, _ = score({"policy": (model, params)}, "policy", batch)
    nll = -jnp.sum(scores.logp_BL * batch.weight_BL)
    return nll, jnp.sum(batch.weight_BL)
