"""What a phase optimises: a loss over a batch, as sums that add over micro-batches and hosts."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from model.api import Model, ModelInputs, ModelOutputs, Params, finish_logits
from model.sharding import einsum, reshape, shard, spec, zeros

Policies = Mapping[
    str, tuple[Model, Params]
]  # role -> model: policy, and where an objective asks for it reference, teacher, reward, value
Metrics = dict[str, tuple[Array, Array]]  # name -> (sum, weight); the quotient is formed once, at the end

CHUNK = 128  # positions of a row whose logits exist at one time; the [B, L, V] array never does


class Loss(NamedTuple):
    """`total` is already divided by the global denominators, so totals and gradients of micro-batches and
    hosts simply add.

    `targets` are negative log-likelihood (nats) and weight of each target, where an objective has them.
    """

    total: Float[Array, ""]
    metrics: Metrics
    aux: dict[str, Any] = {}
    targets: tuple[Float[Array, "B L"], Float[Array, "B L"]] | None = None


@runtime_checkable
class Objective(Protocol):
    """A frozen component; its fields are the hyper-parameters."""

    batch_type: type
    reference_columns: tuple[
        str, ...
    ]  # row fields that `reference` computes once, from the policy that the phase starts with

    def denominators(self, batch: Any) -> dict[str, Float[Array, ""]]:
        """Sums over the whole global batch that the loss divides by; from data alone."""
        ...

    def loss(self, models: Policies, batch: Any, denominators: dict[str, Any], key: Key[Array, ""]) -> Loss:
        """The loss of some rows of the batch."""
        ...


class Scores(NamedTuple):
    """What a model says of every target; padding and other positions without a target hold numbers too."""

    logp_BL: Float[Array, "B L"]  # nats
    correct_BL: Bool[Array, "B L"]  # whether the target is the likeliest token
    lse_BL: Float[Array, "B L"]  # log of the sum over all logits, for z-loss


def score(models: Policies, role: str, batch: Any) -> tuple[Scores, ModelOutputs]:
    """Every target of a batch under a model, and all that the model gave."""
    model, params = models[role]
    outputs = model.apply(params, ModelInputs(batch.tokens_BL, batch.positions_BL, batch.segments_BL))
    return scores_of(model, params, outputs.hidden_BLD, batch.targets_BL), outputs


def scores_of(
    model: Model, params: Params, hidden_BLD: Float[Array, "B L D"], targets_BL: Int[Array, "B L"]
) -> Scores:
    """Targets under hidden states of a model."""
    return Scores(
        *token_logp(hidden_BLD, model.unembed(params), targets_BL, model.vocab_size, model.soft_cap)
    )


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def token_logp(
    hidden_BLD: Float[Array, "B L D"],
    unembed_DV: Float[Array, "D V"],
    targets_BL: Int[Array, "B L"],
    vocab_size: int,
    soft_cap: float | None,
) -> tuple[Float[Array, "B L"], Bool[Array, "B L"], Float[Array, "B L"]]:
    """The fields of `Scores`: log softmax(logits)[target] in float32, chunk by chunk; V may be divided, and
    padded beyond `vocab_size`.

    The output matrix comes, and its gradient goes, in its layout at rest: a gathered one would live from
    the loss to the update.
    """
    return _forward(hidden_BLD, unembed_DV, targets_BL, vocab_size, soft_cap)[0]


def _logits(h_BLD: Array, unembed_DV: Array, vocab_size: int, soft_cap: float | None) -> Array:
    logits_BLV = einsum("BLD,DV->BLV", h_BLD, unembed_DV, dtype=jnp.float32)
    return finish_logits(logits_BLV, vocab_size=vocab_size, soft_cap=soft_cap)


def _forward(
    hidden_BLD: Array, unembed_DV: Array, targets_BL: Array, vocab_size: int, soft_cap: float | None
) -> tuple[tuple[Array, Array, Array], tuple[Array, ...]]:
    whole_DV = shard(unembed_DV, "DV")

    def one(chunk: tuple[Array, Array]) -> tuple[Array, Array, Array]:
        logits_BLV = _logits(chunk[0], whole_DV, vocab_size, soft_cap)
        top_BL = jnp.max(logits_BLV, -1)
        lse_BL = top_BL + jnp.log(jnp.sum(jnp.exp(logits_BLV - top_BL[..., None]), -1))
        hit_BL = jnp.sum(jnp.where(_is_target(logits_BLV, chunk[1]), logits_BLV, 0.0), -1)
        return hit_BL - lse_BL, hit_BL >= top_BL, lse_BL

    logp_BL, correct_BL, lse_BL = map(_join, jax.lax.map(one, (_split(hidden_BLD), _split(targets_BL))))
    return (logp_BL, correct_BL, lse_BL), (hidden_BLD, unembed_DV, targets_BL, lse_BL)


def _backward(
    vocab_size: int, soft_cap: float | None, saved: tuple[Array, ...], cotangents: tuple[Array, Any, Array]
) -> tuple[Array, Array, None]:
    hidden_BLD, at_rest_DV, targets_BL, lse_BL = saved
    unembed_DV = shard(at_rest_DV, "DV")

    def one(d_unembed_DV: Array, chunk: tuple[Array, ...]) -> tuple[Array, Array]:
        h_BLD, targets_BL, lse_BL, d_logp_BL, d_lse_BL = chunk
        logits_BLV = _logits(h_BLD, unembed_DV, vocab_size, soft_cap)
        p_BLV = jnp.exp(logits_BLV - lse_BL[..., None])
        d_BLV = (
            d_logp_BL[..., None] * _is_target(logits_BLV, targets_BL)
            + (d_lse_BL - d_logp_BL)[..., None] * p_BLV
        )
        if (
            soft_cap is not None
        ):  # entries beyond the vocabulary are minus infinity, and no target: their d is 0
            d_BLV = jnp.where(jnp.isfinite(logits_BLV), d_BLV * (1 - (logits_BLV / soft_cap) ** 2), 0.0)
        d_BLV = d_BLV.astype(h_BLD.dtype)
        return d_unembed_DV + einsum("BLD,BLV->DV", h_BLD, d_BLV, dtype=jnp.float32), einsum(
            "BLV,DV->BLD", d_BLV, unembed_DV
        )

    zero_DV = zeros("DV", unembed_DV.shape, jnp.float32)
    chunks = tuple(map(_split, (hidden_BLD, targets_BL, lse_BL, cotangents[0], cotangents[2])))
    d_unembed_DV, d_hidden = jax.lax.scan(one, zero_DV, chunks)
    d_unembed_DV = jax.sharding.reshard(
        d_unembed_DV.astype(at_rest_DV.dtype), jax.typeof(at_rest_DV).sharding.spec
    )
    return *jax.lax.optimization_barrier(
        (_join(d_hidden), d_unembed_DV)
    ), None  # else its float32 sum waits for the update


token_logp.defvjp(_forward, _backward)


def _is_target(logits_BLV: Array, targets_BL: Array) -> Array:
    """A mask, not an index: V may be divided over devices."""
    entries_BLV = jax.lax.broadcasted_iota(
        targets_BL.dtype, logits_BLV.shape, 2, out_sharding=spec("BLV", logits_BLV.shape)
    )
    return entries_BLV == targets_BL[..., None]


def _split(x: Array) -> Array:
    """[B, L, …] -> [n, B, L/n, …]: chunk j takes positions j, j+n, …, so that a divided L keeps its
    shards.
    """
    B, L, *rest = x.shape
    n = next(n for n in range(-(-L // CHUNK), L + 1) if L % n == 0)  # the fewest chunks of equal size
    return jnp.moveaxis(reshape(x, (B, L // n, n, *rest), "BL." + "." * len(rest)), 2, 0)


def _join(x: Array) -> Array:
    n, B, chunk, *rest = x.shape
    return reshape(jnp.moveaxis(x, 0, 2), (B, chunk * n, *rest), "BL" + "." * len(rest))
