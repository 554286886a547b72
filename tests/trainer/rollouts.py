"""Made-up rollouts, by `--import tests.trainer.rollouts`: one sampled token a row, rewarded if it is the one
wanted.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Int32
from pydantic import BaseModel, NonNegativeInt, PositiveInt

from model.api import Model, ModelInputs, Params, finish_logits
from model.sharding import einsum, shard
from trainer.batches.layout import Layout
from trainer.batches.position import Position
from trainer.objective import Loss, Policies
from trainer.phase import Phase
from trainer.scores import score

START, WANTED = 20, 30


class RolloutBatch(NamedTuple):
    """Rows of one answer each, and how much better than the batch's mean it was."""

    tokens_BL: Int32[Any, "B L"]
    targets_BL: Int32[Any, "B L"]
    weight_BL: Float32[Any, "B L"]
    positions_BL: Int32[Any, "B L"]
    segments_BL: Int32[Any, "B L"]
    advantage_B: Float32[Any, "B"]


class OneToken(BaseModel, frozen=True, extra="forbid", strict=True):
    """Asks the policy for a token after START; every `refresh` steps it looks at the policy anew."""

    batch_size: PositiveInt
    row_length: PositiveInt
    choices: PositiveInt
    refresh: NonNegativeInt = 1

    batch_type: ClassVar[type] = RolloutBatch

    def sizes(self) -> dict[str, int]:
        """The size of every letter of a batch."""
        return {"B": self.batch_size, "L": self.row_length}

    def source_names(self) -> list[str]:
        """One environment."""
        return ["one_token"]

    def open(self, phase: Phase) -> "OneTokenSource":
        """From the first step on."""
        return OneTokenSource(self, phase.model, phase.layout, phase.run.seed)


class OneTokenSource:
    """A BatchSource whose rows are keyed by seed and step alone."""

    def __init__(self, data: OneToken, model: Model, layout: Layout, seed: int):
        self._data, self._model, self._layout, self._seed = data, model, layout, seed
        self.position = Position()
        self._probabilities_V: np.ndarray | None = None
        self._mean_reward = 0.0

    def next(self, policy: Callable[[], Params]) -> RolloutBatch:
        """Sample on the host, so that every process and mesh has the same rows."""
        B, L = self._data.batch_size, self._data.row_length
        if self._probabilities_V is None or self.position.step % self._data.refresh == 0:
            self._probabilities_V = np.asarray(
                _probabilities(policy(), self._layout.mesh, model=self._model)
            )
        rng = np.random.default_rng([self._seed, self.position.step])
        # rounded, since meshes add up in other orders
        share_V = np.round(
            self._probabilities_V[START : START + self._data.choices].astype(np.float64), 4
        )
        actions_B = START + rng.choice(self._data.choices, B, p=share_V / share_V.sum())
        reward_B = (actions_B == WANTED).astype(np.float32)
        self._mean_reward = float(reward_B.mean())
        first_BL = (np.arange(L) == 0) * np.ones((B, 1), np.int32)
        rows = {
            "tokens_L": START * first_BL,
            "targets_L": actions_B[:, None] * first_BL,
            "weight_L": first_BL.astype(np.float32),
            "positions_L": 0 * first_BL,
            "segments_L": first_BL,
            "advantage_": reward_B - reward_B.mean(),
        }
        host_rows = {
            name: x[list(self._layout.offsets)].astype(
                np.float32 if x.dtype.kind == "f" else np.int32
            )
            for name, x in rows.items()
        }
        self.position = self.position.after_step(B)
        return self._layout.place(host_rows)

    def skip(self, first: int, stop: int) -> None:
        self.position = self.position.without(first, stop)

    def get_state(self) -> dict[str, Any]:
        return self.position._asdict()

    def set_state(self, state: dict[str, Any]) -> None:
        self.position = Position.of(state)

    def numbers(self) -> dict[str, float]:
        return {"rollouts/reward": self._mean_reward}


@partial(jax.jit, static_argnames=("model", "mesh"))
def _probabilities(params: Params, mesh: Any, *, model: Model) -> jax.Array:
    """Of every token after START, replicated."""
    n_rows = mesh.size  # any mesh divides them
    ones_BL = shard(jnp.ones((n_rows, 1), jnp.int32), "BL")
    hidden_BLD = model.apply(params, ModelInputs(START * ones_BL, 0 * ones_BL, ones_BL)).hidden_BLD
    logits_BLV = einsum(
        "BLD,DV->BLV", hidden_BLD, shard(model.unembed(params), "DV"), dtype=jnp.float32
    )
    logits_BLV = finish_logits(logits_BLV, vocab_size=model.vocab_size, soft_cap=model.soft_cap)
    return jax.nn.softmax(jax.sharding.reshard(logits_BLV, jax.P())[0, 0])


class PolicyGradient(BaseModel, frozen=True, extra="forbid", strict=True):
    """-advantage · log-probability (Williams 1992), a mean over rows."""

    batch_type: ClassVar[type] = RolloutBatch
    roles: ClassVar[tuple[str, ...]] = ("policy",)
    heads: ClassVar[tuple[str, ...]] = ()
    columns: ClassVar[None] = None

    def denominators(self, batch: RolloutBatch) -> dict[str, Any]:
        """The number of rows."""
        return {"rows": jnp.maximum(jnp.sum(batch.weight_BL), 1.0)}

    def loss(
        self, models: Policies, batch: RolloutBatch, denominators: dict[str, Any], key: Any
    ) -> Loss:
        """Metric: the log-probability of what was sampled."""
        scores, outputs = score(models, "policy", batch)
        logp_B = jnp.sum(scores.logp_BL * batch.weight_BL, 1)
        n = jnp.sum(batch.weight_BL)
        total = -jnp.sum(batch.advantage_B * logp_B) / denominators["rows"]
        return Loss(total, {"logp": (jnp.sum(logp_B), n)}, outputs.aux)
