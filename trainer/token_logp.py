"""Log-probabilities of targets, and divergences from a teacher, without the [B, L, V] array of logits.

Logits exist for at most CHUNK positions of a row at a time; the backward pass recomputes them. V may be
sharded, and is padded beyond `vocab_size` with logits of minus infinity. Output matrices are passed in, and
their gradients returned, in their layout at rest: a gathered gradient would stay in memory until the update.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from model.api import finish_logits
from model.sharding import einsum, reshape, shard, spec, zeros

CHUNK = 128  # most positions of a row whose logits exist at one time


class Readout(NamedTuple):
    """How a model turns hidden states into logits, apart from the output matrix."""

    vocab_size: int
    soft_cap: float | None

    def logits(self, h_BLD: Array, unembed_DV: Array) -> Array:
        """Float32 logits; `unembed_DV` is laid out in use."""
        logits_BLV = einsum("BLD,DV->BLV", h_BLD, unembed_DV, dtype=jnp.float32)
        return finish_logits(logits_BLV, vocab_size=self.vocab_size, soft_cap=self.soft_cap)


# nondiff_argnums: the vocabulary's size and the cap are Python numbers, which shape the traced program.
@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def token_logp(
    hidden_BLD: Float[Array, "B L D"],
    unembed_DV: Float[Array, "D V"],
    targets_BL: Int[Array, "B L"],
    vocab_size: int,
    soft_cap: float | None,
) -> tuple[Float[Array, "B L"], Bool[Array, "B L"], Float[Array, "B L"]]:
    """(log softmax(logits)[target] in nats, whether the target is the likeliest token, log-sum-exp of the
    logits), the numbers in float32.
    """
    return _forward(hidden_BLD, unembed_DV, targets_BL, vocab_size, soft_cap)[0]


def _forward(
    hidden_BLD: Array, unembed_DV: Array, targets_BL: Array, vocab_size: int, soft_cap: float | None
) -> tuple[tuple[Array, Array, Array], tuple[Array, ...]]:
    readout = Readout(vocab_size, soft_cap)
    in_use_DV = shard(unembed_DV, "DV")

    def of_chunk(chunk: tuple[Array, Array]) -> tuple[Array, Array, Array]:
        h_BLD, targets_BL = chunk
        return _scores(readout.logits(h_BLD, in_use_DV), targets_BL)

    # A loop, not a vmap, which would form the logits of all chunks at once.
    scores = jax.lax.map(of_chunk, (_split(hidden_BLD), _split(targets_BL)))
    logp_BL, correct_BL, lse_BL = map(_join, scores)
    return (logp_BL, correct_BL, lse_BL), (hidden_BLD, unembed_DV, targets_BL, lse_BL)


def _backward(
    vocab_size: int,
    soft_cap: float | None,
    saved: tuple[Array, ...],
    cotangents: tuple[Array, Any, Array],
) -> tuple[Array, Array, None]:
    # With the saved `lse` the softmax is exp(logits - lse), without another maximum and sum.
    hidden_BLD, unembed_DV, targets_BL, lse_BL = saved
    d_logp_BL, _, d_lse_BL = cotangents

    def d_logits(logits_BLV: Array, targets_BL: Array, lse_BL: Array, *d: Array) -> Array:
        return _d_scores(logits_BLV, targets_BL, lse_BL, *d)

    per_position = (targets_BL, lse_BL, d_logp_BL, d_lse_BL)
    d_hidden_BLD, d_unembed_DV = _pull_back(
        d_logits, Readout(vocab_size, soft_cap), hidden_BLD, unembed_DV, per_position
    )
    # None: target ids are integers, which have no gradient.
    return d_hidden_BLD, d_unembed_DV, None


token_logp.defvjp(_forward, _backward)


class Distilled(NamedTuple):
    """What `token_logp` gives, and the divergence from a teacher at every position."""

    logp_BL: Float[Array, "B L"]
    correct_BL: Bool[Array, "B L"]
    lse_BL: Float[Array, "B L"]
    kl_BL: Float[Array, "B L"]  # KL(teacher || student) of the softened distributions, nats


@partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def distilled(
    hidden_BLD: Float[Array, "B L D"],
    unembed_DV: Float[Array, "D V"],
    teacher_BLW: Float[Array, "B L W"],
    teacher_unembed_WV: Float[Array, "W V"],
    targets_BL: Int[Array, "B L"],
    readout: Readout,
    teacher_readout: Readout,
    temperature: float,
) -> Distilled:
    """`token_logp` of the student, and at every position KL(softmax(teacher / T) || softmax(student / T)), in
    one pass over both models' logits. The teacher gets no gradient.
    """
    args = hidden_BLD, unembed_DV, teacher_BLW, teacher_unembed_WV, targets_BL
    return _distilled_forward(*args, readout, teacher_readout, temperature)[0]


def _distilled_forward(
    hidden_BLD: Array,
    unembed_DV: Array,
    teacher_BLW: Array,
    teacher_unembed_WV: Array,
    targets_BL: Array,
    readout: Readout,
    teacher_readout: Readout,
    temperature: float,
) -> tuple[Distilled, tuple[Array, ...]]:
    in_use_DV = shard(unembed_DV, "DV")
    teacher_in_use_DV = shard(teacher_unembed_WV, "DV")  # here D is the teacher's width

    def of_chunk(chunk: tuple[Array, Array, Array]) -> tuple[Array, ...]:
        h_BLD, teacher_BLD, targets_BL = chunk
        logits_BLV = readout.logits(h_BLD, in_use_DV)
        teacher_BLV = teacher_readout.logits(teacher_BLD, teacher_in_use_DV)
        teacher_logp_BLV = _log_softmax(teacher_BLV / temperature)
        student_logp_BLV = _log_softmax(logits_BLV / temperature)
        p_BLV = jnp.exp(teacher_logp_BLV)
        # where: padding entries have p = 0 and minus infinity in both models, and 0 · (inf - inf) is NaN
        terms_BLV = jnp.where(p_BLV > 0, p_BLV * (teacher_logp_BLV - student_logp_BLV), 0.0)
        return *_scores(logits_BLV, targets_BL), jnp.sum(terms_BLV, -1)

    chunks = _split(hidden_BLD), _split(teacher_BLW), _split(targets_BL)
    outputs = Distilled(*map(_join, jax.lax.map(of_chunk, chunks)))
    return outputs, (
        hidden_BLD,
        unembed_DV,
        teacher_BLW,
        teacher_unembed_WV,
        targets_BL,
        outputs.lse_BL,
    )


def _distilled_backward(
    readout: Readout,
    teacher_readout: Readout,
    temperature: float,
    saved: tuple[Array, ...],
    cotangents: Distilled,
) -> tuple[Array | None, ...]:
    hidden_BLD, unembed_DV, teacher_BLW, teacher_unembed_WV, targets_BL, lse_BL = saved
    teacher_in_use_DV = shard(teacher_unembed_WV, "DV")

    def d_logits(logits_BLV: Array, *chunk: Array) -> Array:
        teacher_BLD, targets_BL, lse_BL, d_logp_BL, d_lse_BL, d_kl_BL = chunk
        teacher_BLV = teacher_readout.logits(teacher_BLD, teacher_in_use_DV)
        p_BLV = jnp.exp(_log_softmax(logits_BLV / temperature))
        teacher_p_BLV = jnp.exp(_log_softmax(teacher_BLV / temperature))
        # d KL(q || softmax(z / T)) / dz = (softmax(z / T) - q) / T
        d_kl_BLV = d_kl_BL[..., None] * (p_BLV - teacher_p_BLV) / temperature
        return _d_scores(logits_BLV, targets_BL, lse_BL, d_logp_BL, d_lse_BL) + d_kl_BLV

    per_position = (
        teacher_BLW,
        targets_BL,
        lse_BL,
        cotangents.logp_BL,
        cotangents.lse_BL,
        cotangents.kl_BL,
    )
    d_hidden_BLD, d_unembed_DV = _pull_back(d_logits, readout, hidden_BLD, unembed_DV, per_position)
    return (
        d_hidden_BLD,
        d_unembed_DV,
        # The teacher is fixed, but a custom_vjp must return a cotangent for every float argument.
        jnp.zeros_like(teacher_BLW),
        jnp.zeros_like(teacher_unembed_WV),
        None,
    )


distilled.defvjp(_distilled_forward, _distilled_backward)


def _scores(logits_BLV: Array, targets_BL: Array) -> tuple[Array, Array, Array]:
    # The maximum is subtracted first: exp overflows float32 above 88.
    top_BL = jnp.max(logits_BLV, -1)
    lse_BL = top_BL + jnp.log(jnp.sum(jnp.exp(logits_BLV - top_BL[..., None]), -1))
    target_BL = jnp.sum(jnp.where(_is_target(logits_BLV, targets_BL), logits_BLV, 0.0), -1)
    # `>=` is exact: target_BL is one of the logits plus zeros, so it equals the maximum if it is the maximum.
    return target_BL - lse_BL, target_BL >= top_BL, lse_BL


def _d_scores(
    logits_BLV: Array, targets_BL: Array, lse_BL: Array, d_logp_BL: Array, d_lse_BL: Array
) -> Array:
    """The gradient of `_scores` with respect to the logits."""
    # d logp / d logits = onehot - p, and d lse / d logits = p
    p_BLV = jnp.exp(logits_BLV - lse_BL[..., None])
    return (
        d_logp_BL[..., None] * _is_target(logits_BLV, targets_BL)
        + (d_lse_BL - d_logp_BL)[..., None] * p_BLV
    )


def _log_softmax(logits_BLV: Array) -> Array:
    """Log-softmax over V, which stays minus infinity at padding entries."""
    top_BL1 = jnp.max(logits_BLV, -1, keepdims=True)
    return logits_BLV - top_BL1 - jnp.log(jnp.sum(jnp.exp(logits_BLV - top_BL1), -1, keepdims=True))


def _pull_back(
    d_logits: Callable[..., Array],
    readout: Readout,
    hidden_BLD: Array,
    unembed_DV: Array,
    per_position: tuple[Array, ...],
) -> tuple[Array, Array]:
    """Gradients with respect to hidden states and output matrix, chunk by chunk.

    `d_logits(logits_BLV, *chunk)` gives the gradient with respect to the logits; `chunk` holds the positions
    of the arrays `per_position`.
    """
    in_use_DV = shard(unembed_DV, "DV")
    soft_cap = readout.soft_cap

    def add(d_unembed_DV: Array, chunk: tuple[Array, ...]) -> tuple[Array, Array]:
        h_BLD, *rest = chunk
        logits_BLV = readout.logits(h_BLD, in_use_DV)
        d_BLV = d_logits(logits_BLV, *rest)
        if soft_cap is not None:
            # The derivative of y = cap · tanh(x / cap) is 1 - (y / cap)². Padding entries are minus infinity
            # and never a target: their gradient is 0, which an infinite slope would turn into NaN.
            slope_BLV = 1 - (logits_BLV / soft_cap) ** 2
            d_BLV = jnp.where(jnp.isfinite(logits_BLV), d_BLV * slope_BLV, 0.0)
        # Products in the model's dtype, as in the forward pass; only the sum over chunks is float32.
        d_BLV = d_BLV.astype(h_BLD.dtype)
        d_unembed_DV = d_unembed_DV + einsum("BLD,BLV->DV", h_BLD, d_BLV, dtype=jnp.float32)
        return d_unembed_DV, einsum("BLV,DV->BLD", d_BLV, in_use_DV)

    zero_DV = zeros("DV", unembed_DV.shape, jnp.float32)
    chunks = tuple(map(_split, (hidden_BLD, *per_position)))
    d_unembed_DV, d_hidden = jax.lax.scan(add, zero_DV, chunks)
    at_rest = jax.typeof(unembed_DV).sharding.spec
    d_unembed_DV = jax.sharding.reshard(d_unembed_DV.astype(unembed_DV.dtype), at_rest)
    # Without the barrier XLA may delay the cast and the resharding until the update, and keep the gathered
    # float32 sum in memory until then.
    return jax.lax.optimization_barrier((_join(d_hidden), d_unembed_DV))


def _is_target(logits_BLV: Array, targets_BL: Array) -> Array:
    """Whether a vocabulary entry is the position's target: a mask, since V may be sharded, where indexing
    would communicate.
    """
    layout = spec("BLV", logits_BLV.shape)
    entries_BLV = jax.lax.broadcasted_iota(
        targets_BL.dtype, logits_BLV.shape, 2, out_sharding=layout
    )
    return entries_BLV == targets_BL[..., None]


def _split(x: Array) -> Array:
    """[B, L, …] -> [n, B, L/n, …]. Chunk j holds positions j, j + n, …: a strided chunk has as many of them
    on every device that L is sharded over, so nothing moves.
    """
    B, L, *rest = x.shape
    # the fewest chunks of equal length, at most CHUNK
    n = next(n for n in range(-(-L // CHUNK), L + 1) if L % n == 0)
    return jnp.moveaxis(reshape(x, (B, L // n, n, *rest), "BL." + "." * len(rest)), 2, 0)


def _join(x: Array) -> Array:
    """The inverse of `_split`."""
    n, B, chunk, *rest = x.shape
    return reshape(jnp.moveaxis(x, 0, 2), (B, chunk * n, *rest), "BL" + "." * len(rest))
