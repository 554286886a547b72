"""A whole small Llama on the device: bfloat16 beside float32, and decoding with a cache beside one pass."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from launch.bench.device.rows import Check, Row, compared
from launch.bench.train import made_up_batch, shape_from
from model.api import Model, ModelInputs, Params
from model.architectures.llama import Llama
from model.execution import Execution, Precision
from model.mesh import make_mesh
from trainer.objectives.next_token import NextToken

# On a CPU the loss of the small model differs by 2.5e-4 and its gradient by 1e-2 of its norm. The bounds are
# wider, because a deeper model rounds more often.
BOUNDS = {"loss": 5e-3, "gradient": 6e-2}
# float32 throughout: only the order of sums differs between the two ways.
CACHE_BOUND = 1e-4


def model_checks(*, small: bool) -> Iterator[Check]:
    """The loss and its gradient, and the cache of keys and values."""
    sizes = llama(small=small)
    bfloat16 = functools.partial(check_bfloat16, sizes)
    yield Check("model, bfloat16 against float32", bfloat16, compares=True)
    cache = functools.partial(check_cache, sizes)
    yield Check("model, cache against one pass", cache, compares=True)


def llama(*, small: bool) -> Llama:
    """Four layers at the width of a 1B model, or a tiny one."""
    if small:
        widths = {"width": 32, "heads": 4, "kv_heads": 2, "head_width": 8, "feed_forward_width": 64}
        return Llama(vocab_size=128, layers=2, context=32, **widths)
    widths = {
        "width": 2048,
        "heads": 16,
        "kv_heads": 4,
        "head_width": 128,
        "feed_forward_width": 5632,
    }
    # A small vocabulary, because a large output matrix would take more time than the layers.
    return Llama(vocab_size=4096, layers=4, context=1024, **widths)


def check_bfloat16(sizes: Llama) -> Row:
    """The training loss and its gradient with the device's own kernels in bfloat16, beside plain attention in
    float32, from the same parameters.
    """
    float32 = Precision(compute="float32")
    exact_loss, exact = _loss_and_gradient(sizes, float32, Execution(attention="plain"))
    loss, gradient = _loss_and_gradient(sizes, Precision(), Execution())
    differences = [a - b for a, b in zip(gradient, exact, strict=True)]
    errors = {
        "loss": abs(loss - exact_loss) / exact_loss,
        "gradient": _norm(differences) / _norm(exact),
    }
    return compared("model, bfloat16 against float32", errors, BOUNDS)


def _norm(arrays: list[np.ndarray]) -> float:
    """Over all parameters together: a vector with a tiny gradient cannot fail the check."""
    squares = [np.sum(np.square(x)) for x in arrays]
    return float(np.sqrt(sum(squares)))


def _loss_and_gradient(
    sizes: Llama, precision: Precision, execution: Execution
) -> tuple[float, list[np.ndarray]]:
    mesh = make_mesh(jax.devices()[:1])
    model = sizes.build(precision, execution)
    objective = NextToken()
    shape = shape_from(sizes, batch_size=2, seq_len=sizes.context)
    # Otherwise the reference would be computed from TF32 or bfloat16 pieces.
    highest = "highest" if precision.compute == "float32" else "default"
    with jax.set_mesh(mesh), jax.default_matmul_precision(highest):
        # one batch for both, so that only the precision differs
        batch = made_up_batch(shape, mesh)

        def loss_of(params: Params) -> Any:
            policies = {"policy": (model, params)}
            denominators = objective.denominators(batch)
            return objective.loss(policies, batch, denominators, jax.random.key(0)).total

        params = jax.jit(model.init)(jax.random.key(0))
        loss, gradient = jax.jit(jax.value_and_grad(loss_of))(params)
    leaves = [np.asarray(x, np.float32) for x in jax.tree.leaves(gradient)]
    return float(loss), leaves


def check_cache(sizes: Llama) -> Row:
    """Hidden states of a row's second half: token by token with the cache, and in one pass over the row."""
    mesh = make_mesh(jax.devices()[:1])

    # float32, so that only a wrong cache, mask or position can make a difference
    model = sizes.build(Precision(compute="float32"), Execution(attention="plain"))
    with jax.set_mesh(mesh), jax.default_matmul_precision("highest"):
        params = jax.jit(model.init)(jax.random.key(0))
        L = 16
        tokens_BL = jax.random.randint(jax.random.key(1), (2, L), 0, sizes.vocab_size)
        outputs = jax.jit(model.apply)(params, _inputs(tokens_BL, 0, L))
        # Only the second half is compared; the first is read in one pass by both.
        exact_BLD = outputs.hidden_BLD[:, L // 2 :]
        got_BLD = _decoded(model, params, tokens_BL)
    error = jnp.linalg.norm(got_BLD - exact_BLD) / jnp.linalg.norm(exact_BLD)
    errors = {"hidden": float(error)}
    return compared("model, cache against one pass", errors, {"hidden": CACHE_BOUND})


def _decoded(model: Model, params: Params, tokens_BL: jax.Array) -> jax.Array:
    """Hidden states of a row's second half: the first is read in one pass, the second token by token."""
    B, L = tokens_BL.shape
    # Compiled twice: for the prompt, and for single tokens.
    decode = jax.jit(model.decode)
    _, cache = decode(params, _inputs(tokens_BL, 0, L // 2), model.empty_cache(B, L))
    hidden = []
    for position in range(L // 2, L):
        hidden_BLD, cache = decode(params, _inputs(tokens_BL, position, position + 1), cache)
        hidden.append(hidden_BLD)
    return jnp.concatenate(hidden, 1)


def _inputs(tokens_BL: jax.Array, start: int, stop: int) -> ModelInputs:
    piece_BL = tokens_BL[:, start:stop]
    positions_BL = jnp.broadcast_to(jnp.arange(start, stop), piece_BL.shape)
    # Segment 1 everywhere: a single document, no padding.
    return ModelInputs(piece_BL, positions_BL, jnp.ones_like(piece_BL))
