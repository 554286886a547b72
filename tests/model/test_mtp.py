"""Laws of multi-token prediction: plain numpy says the same of packed rows, on one device and on a mesh;
others do not know of it.
"""

from functools import cache, partial
from typing import Any

import jax
import numpy as np
from flax import nnx

from model.api import Model, ModelInputs
from model.decoder import Decoder
from model.execution import DEFAULT, Precision
from model.kernels.choose import attend_of
from model.layers.attention import Attention
from model.layers.block import Block
from model.layers.feed_forward import FeedForward
from model.layers.mtp import Module, MultiToken
from model.layers.norm import RMSNorm
from model.layers.rope import Rope
from model.layers.stack import Stack
from tests.examples import (
    ONE_DEVICE,
    at_rest_on,
    batch_on,
    quick_jit,
    random_documents,
    token_batch,
    under,
)
from trainer.objectives.next_token import NextToken

V, D, H, A, F, DEPTHS = 40, 16, 4, 6, 24, 2
B, L = 4, 16
DOCUMENTS = [
    [5, 9],
    [17],
    [2, 3, 8],
    [6, 1, 4],
]  # lengths in tokens, by row; documents of 3 tokens and fewer have no token far ahead
CONTEXT = {"context": 2, "tensor": 2, "fsdp": 2}


@cache
def model_of(depths: int) -> Model:
    """A small Llama that predicts `depths` further tokens."""
    norm = partial(RMSNorm, size=D, eps=1e-5)

    def block(rngs: nnx.Rngs) -> Block:
        attention = Attention(D=D, H=H, K=H, A=A, attend=attend_of(DEFAULT), rngs=rngs)
        return Block(norm=norm, attention=attention, feed_forward=FeedForward(D=D, F=F, rngs=rngs))

    return Decoder(
        vocab_size=V,
        width=D,
        stacks={"blocks": Stack([block], N=1, execution=DEFAULT)},
        norm=norm,
        tied=False,
        ropes={"rope": (Rope(), A)},
        further=MultiToken(
            lambda rngs: Module(D=D, norm=norm, block=block, rngs=rngs), depths, DEFAULT
        )
        if depths
        else None,
    ).build(Precision(compute="float32"))


@cache
def host_params() -> Any:
    with jax.set_mesh(under(ONE_DEVICE)):
        shapes = jax.eval_shape(model_of(DEPTHS).init, jax.random.key(0))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(0.1, 0.4, leaf.shape).astype(np.float32), shapes)


@cache
def case() -> tuple[Any, Any]:
    """Documents by row, and the batch of them; some targets have no weight."""
    rng = np.random.default_rng(3)
    rows = [random_documents(rng, lengths, V) for lengths in DOCUMENTS]
    return rows, token_batch(rows, L=L, weights=rng.random((B, L)) < 0.8)


@cache
def loss_and_gradient(mesh: tuple, weight: float) -> Any:
    def loss(params, batch):
        objective = NextToken(mtp_weight=weight)
        loss = objective.loss(
            {"policy": (model_of(DEPTHS), params)},
            batch,
            objective.denominators(batch),
            jax.random.key(0),
        )
        return loss.total, loss.metrics

    mesh = under(dict(mesh))
    with jax.set_mesh(mesh):
        params, batch = at_rest_on(mesh, host_params()), batch_on(mesh, case()[1])
        (total, metrics), gradient = quick_jit(jax.value_and_grad(loss, has_aux=True))(
            params, batch
        )
        return float(total), jax.tree.map(np.array, metrics), jax.tree.map(np.array, gradient)


def norm(x, w):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * w["scale_D"]


def plain_block(w: Any, x: np.ndarray) -> np.ndarray:
    """One layer over one document."""
    attention, feed_forward, n = w["attention"], w["feed_forward"], len(x)
    angles = np.outer(np.arange(n), 10_000.0 ** (-np.arange(A // 2) / (A // 2)))

    def turn(x):
        low, high = x[:, : A // 2], x[:, A // 2 :]
        return np.hstack(
            [
                low * np.cos(angles) - high * np.sin(angles),
                high * np.cos(angles) + low * np.sin(angles),
            ]
        )

    y = norm(x, w["attention_norm"])
    for h in range(H):
        scores = (
            turn(y @ attention["wq_DHA"][:, h]) @ turn(y @ attention["wk_DKA"][:, h]).T / np.sqrt(A)
        )
        p = np.exp(np.where(np.tri(n), scores, -np.inf))
        x = (
            x
            + p
            / p.sum(-1, keepdims=True)
            @ (y @ attention["wv_DKA"][:, h])
            @ attention["wo_HAD"][h]
        )
    y = norm(x, w["feed_forward_norm"])
    gate = y @ feed_forward["w_gate_DF"]
    return (
        x + (gate / (1 + np.exp(-gate)) * (y @ feed_forward["w_up_DF"])) @ feed_forward["w_down_FD"]
    )


def plain(params: Any, tokens: np.ndarray) -> list[np.ndarray]:
    """By depth, 0 first, the negative log-likelihood of token i + depth + 1 at each position i that has one
    (eq. 21-24).
    """
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    layer = {
        part: {name.replace("_N", "_"): x[0] for name, x in leaves.items()}
        for part, leaves in p["blocks"].items()
    }
    embedded, found = p["embed_VD"][tokens], []
    for depth in range(DEPTHS + 1):
        n = len(tokens) - 1 - depth
        if n <= 0:
            break
        if depth == 0:
            x = norm(plain_block(layer, embedded[:n]), p["norm"])
        else:
            w = p["mtp"][f"depth{depth}"]
            joined = norm(embedded[depth : depth + n], w["embed_norm"]) @ w["w_embed_DD2"]
            x = norm(
                plain_block(w["block"], joined + norm(x[:n], w["hidden_norm"]) @ w["w_hidden_DD2"]),
                w["norm"],
            )
        logits = (x @ p["unembed_DV"])[:, :V]
        lse = np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)) + logits.max(-1)
        found.append(lse - logits[np.arange(n), tokens[depth + 1 :]])
    return found


def expected(weight: float) -> tuple[float, float, float]:
    """The loss, and of further tokens the sum and the number of targets."""
    rows, batch = case()
    sums, counts = np.zeros(DEPTHS + 1), np.zeros(DEPTHS + 1)
    for b, documents in enumerate(rows):
        for segment, document in enumerate(documents, 1):
            weights = batch.weight_BL[b, batch.segments_BL[b] == segment]
            for depth, nll in enumerate(plain(host_params(), np.array(document))):
                sums[depth] += nll @ weights[depth:]
                counts[depth] += weights[depth:].sum()
    return (
        (sums[0] + weight / DEPTHS * sums[1:].sum()) / counts[0],
        sums[1:].sum(),
        counts[1:].sum(),
    )


def test_the_loss_of_packed_rows_is_that_of_plain_numpy_document_by_document():
    total, metrics, _ = loss_and_gradient((), 0.3)
    loss, further, n_further = expected(0.3)
    np.testing.assert_allclose(metrics["nll_further"], (further, n_further), rtol=1e-5)
    np.testing.assert_allclose(total, loss, rtol=1e-5)
    assert n_further > 10


def test_a_mesh_that_holds_rows_in_another_order_gives_the_loss_and_gradients_of_one_device():
    (total, _, gradient), (expected_total, _, expected) = (
        loss_and_gradient(tuple(m.items()), 0.3) for m in (CONTEXT, ONE_DEVICE)
    )
    np.testing.assert_allclose(total, expected_total, rtol=1e-6)
    for (path, g), (_, h) in zip(
        jax.tree.leaves_with_path(gradient), jax.tree.leaves_with_path(expected), strict=True
    ):
        assert np.linalg.norm(g - h) <= 1e-5 * np.linalg.norm(h) > 0, path


def test_without_weight_the_modules_have_no_gradient_and_with_it_the_shared_matrices_have_more():
    _, metrics, gradient = loss_and_gradient((), 0.0)
    _, _, both = loss_and_gradient((), 0.3)
    assert "nll_further" not in metrics and not any(
        g.any() for g in jax.tree.leaves(gradient["mtp"])
    )
    assert all((both[name] != gradient[name]).any() for name in ("embed_VD", "unembed_DV"))


def test_modules_share_embedding_and_output_matrix_and_decoding_does_not_need_them():
    params, inputs = host_params(), ModelInputs(*(np.ones((B, 3), np.int32),) * 3)
    assert set(params["mtp"]) == {"depth1", "depth2"}
    assert set(params["mtp"]["depth1"]) == {
        "embed_norm",
        "hidden_norm",
        "norm",
        "w_embed_DD2",
        "w_hidden_DD2",
        "block",
    }
    with jax.set_mesh(under(ONE_DEVICE)):
        model = model_of(DEPTHS)
        rest = {name: x for name, x in params.items() if name != "mtp"}
        assert jax.eval_shape(model.decode, rest, inputs, model.empty_cache(B, 3))[0].shape == (
            B,
            3,
            D,
        )


def test_a_model_without_them_has_neither_parameters_nor_hidden_states_of_them():
    with jax.set_mesh(under(ONE_DEVICE)):
        shapes = jax.eval_shape(model_of(0).init, jax.random.key(0))
        outputs = jax.eval_shape(
            model_of(0).apply, shapes, ModelInputs(*(np.ones((B, L), np.int32),) * 3)
        )
    assert "mtp" not in shapes and outputs.mtp_hidden == () and outputs.aux == {}
