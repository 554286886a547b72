"""Laws of latent attention: plain numpy says the same, the cached form says the same, and its weights and
cache lie where they should.
"""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from model.execution import DEFAULT, Execution
from model.kernels.choose import attend_of
from model.layers.latent_attention import LatentAttention
from model.layers.rope import Rope
from model.layers.rows import Rows
from model.layers.weight import in_use
from model.sharding import letters_of, named, shard
from tests.examples import ONE_DEVICE, at_rest_on, quick_jit, random_tokens, under

D, H, A, A2, A3, LATENT = 16, 4, 6, 4, 10, 8
B, L = 8, 12
QUERIES = pytest.mark.parametrize(
    "query_latent", [24, None], ids=["latent queries", "whole queries"]
)
BATCHES, CONTEXT = {"fsdp": 2, "tensor": 2, "data": 2}, {"context": 2, "tensor": 2, "fsdp": 2}
SLOW = {"marks": pytest.mark.slow}
ON_MESHES = [
    (24, CONTEXT),
    (None, BATCHES),
    pytest.param(24, BATCHES, **SLOW),
    pytest.param(None, CONTEXT, **SLOW),
]
DECODED = [(24, ONE_DEVICE), (None, BATCHES), pytest.param(24, CONTEXT, **SLOW)]


def attention(query_latent: int | None, rngs: nnx.Rngs) -> LatentAttention:
    sizes = {
        "D": D,
        "H": H,
        "A": A,
        "A2": A2,
        "A3": A3,
        "latent": LATENT,
        "query_latent": query_latent,
        "scale": 0.3,
    }
    return LatentAttention(**sizes, attend=attend_of(DEFAULT), rngs=rngs)


@cache
def parts(query_latent: int | None) -> tuple[Any, Any]:
    """What makes the layer of its weights, and host weights of it."""
    with jax.set_mesh(under(ONE_DEVICE)):
        definition, state = nnx.split(nnx.eval_shape(lambda: attention(query_latent, nnx.Rngs(0))))
    rng, shapes = np.random.default_rng(0), nnx.to_pure_dict(state)
    return definition, jax.tree.map(
        lambda leaf: rng.normal(0.5, 0.4, leaf.shape).astype(np.float32), shapes
    )


@cache
def case() -> tuple[np.ndarray, Any]:
    """Activations, and packed rows with padding."""
    batch = random_tokens(B=B, L=L)
    return np.random.default_rng(1).normal(size=(B, L, D)).astype(np.float32), batch


def rows_of(positions_BL: Any, segments_BL: Any, lengths_B: Any = None) -> Rows:
    return Rows(
        positions_BL,
        segments_BL,
        {"rope": Rope(theta=100.0).rotations(positions_BL, A2)},
        lengths_B,
    )


@cache
def whole(query_latent: int | None, mesh: tuple) -> tuple[np.ndarray, Any]:
    """The result, and the gradient of a sum over it by the weights."""
    definition, weights = parts(query_latent)
    x_BLD, batch = case()
    mesh = under(dict(mesh))

    def run(weights: Any, x_BLD: Any, positions_BL: Any, segments_BL: Any) -> Any:
        out_BLD = shard(
            nnx.merge(definition, in_use(weights, "float32"))(
                x_BLD, rows_of(positions_BL, segments_BL)
            ),
            "BLD",
        )
        return jnp.sum(jnp.sin(out_BLD) * (segments_BL > 0)[..., None]), out_BLD

    with jax.set_mesh(mesh):
        arrays = (("BLD", x_BLD), ("BL", batch.positions_BL), ("BL", batch.segments_BL))
        placed = [jax.device_put(x, named(mesh, letters)) for letters, x in arrays]
        (_, out_BLD), gradient = quick_jit(jax.value_and_grad(run, has_aux=True))(
            at_rest_on(mesh, weights), *placed
        )
        return np.array(out_BLD), jax.tree.map(np.array, gradient)


def plain(w: Any, x_LD: np.ndarray) -> np.ndarray:
    """One document, in float64, from eq. 1-11 of DeepSeek-V3 with every product written out head by head."""
    w = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), w)

    def norm(x, scale):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale

    def turn(x):
        angles = np.outer(np.arange(len(x)), 100.0 ** (-np.arange(A2 // 2) / (A2 // 2)))
        low, high = x[:, : A2 // 2], x[:, A2 // 2 :]
        return np.hstack(
            [
                low * np.cos(angles) - high * np.sin(angles),
                high * np.cos(angles) + low * np.sin(angles),
            ]
        )

    x_LD = x_LD.astype(np.float64)
    queries = norm(x_LD @ w["wq_down_DD3"], w["q_norm"]["scale_D3"]) if "q_norm" in w else x_LD
    wq, wq_rope = (
        (w["wq_D3HA"], w["wq_rope_D3HA2"]) if "q_norm" in w else (w["wq_DHA"], w["wq_rope_DHA2"])
    )
    latents, k_rope = (
        norm(x_LD @ w["wkv_down_DD2"], w["kv_norm"]["scale_D2"]),
        turn(x_LD @ w["wk_rope_DA2"]),
    )
    out = np.zeros_like(x_LD)
    for h in range(H):
        scores = (
            queries @ wq[:, h] @ (latents @ w["wk_D2HA"][:, h]).T
            + turn(queries @ wq_rope[:, h]) @ k_rope.T
        )
        scores = np.where(np.tri(len(x_LD)), 0.3 * scores, -np.inf)
        p = np.exp(scores - scores.max(-1, keepdims=True))
        out += p / p.sum(-1, keepdims=True) @ (latents @ w["wv_D2HA3"][:, h]) @ w["wo_HA3D"][h]
    return out


@QUERIES
def test_packed_rows_are_those_of_plain_numpy_document_by_document(query_latent):
    (x_BLD, batch), (out_BLD, _) = case(), whole(query_latent, ())
    n = 0
    for b in range(B):
        for segment in range(1, batch.segments_BL[b].max() + 1):
            at = batch.segments_BL[b] == segment
            np.testing.assert_allclose(
                out_BLD[b, at], plain(parts(query_latent)[1], x_BLD[b, at]), rtol=1e-4, atol=1e-5
            )
            n += at.sum()
    assert n == (batch.segments_BL > 0).sum() > 0 and np.isfinite(out_BLD).all()


@pytest.mark.parametrize(("query_latent", "mesh"), ON_MESHES)
def test_a_mesh_gives_what_one_device_gives(query_latent, mesh):
    (out_BLD, gradient), (expected_BLD, expected) = (
        whole(query_latent, tuple(m.items())) for m in (mesh, ONE_DEVICE)
    )
    real_BL = case()[1].segments_BL > 0
    np.testing.assert_allclose(out_BLD[real_BL], expected_BLD[real_BL], rtol=1e-5, atol=1e-5)
    for (path, g), (_, h) in zip(
        jax.tree.leaves_with_path(gradient), jax.tree.leaves_with_path(expected), strict=True
    ):
        assert np.linalg.norm(g - h) <= 1e-5 * np.linalg.norm(h) > 0, path


@pytest.mark.parametrize(("query_latent", "mesh"), DECODED)
def test_reading_ragged_prompts_and_then_token_by_token_gives_whole_rows(query_latent, mesh):
    """The cache holds latents alone: keys and values of a head are never made of them."""
    definition, weights = parts(query_latent)
    x_BLD, _ = case()
    lengths, done_B = np.array([12, 4, 7, 10, 1, 5, 3, 8]), np.zeros(B, np.int32)
    found_BLD, mesh = np.zeros_like(x_BLD), under(mesh)

    def step(
        weights: Any, x_BLD: Any, positions_BL: Any, segments_BL: Any, lengths_B: Any, slots: Any
    ) -> Any:
        layer = nnx.merge(definition, in_use(weights, "float32"))
        return layer.decode(x_BLD, rows_of(positions_BL, segments_BL, lengths_B), slots)

    with jax.set_mesh(mesh):
        shapes = attention(query_latent, nnx.Rngs(0)).slots(B, L)
        assert shapes == {"latents_BTR": (B, L, LATENT), "rope_keys_BTA": (B, L, A2)}
        slots = {
            name: jax.device_put(jnp.zeros(shape), named(mesh, letters_of(name)))
            for name, shape in shapes.items()
        }
        jitted, placed = quick_jit(step), at_rest_on(mesh, weights)
        for n in (4, *[1] * 8):
            real_BL = np.arange(n) < np.minimum(n, lengths - done_B)[:, None]
            at_BL = np.minimum(done_B[:, None] + np.arange(n, dtype=np.int32), L - 1)
            arrays = (
                np.take_along_axis(x_BLD, at_BL[..., None], 1),
                at_BL,
                real_BL.astype(np.int32),
                done_B,
            )
            letters = ("BLD", "BL", "BL", "B")
            inputs = [
                jax.device_put(x, named(mesh, one, x.shape))
                for one, x in zip(letters, arrays, strict=True)
            ]
            out_BLD, slots = jitted(placed, *inputs, slots)
            for b, new in enumerate(real_BL.sum(-1)):
                found_BLD[b, done_B[b] : done_B[b] + new] = np.array(out_BLD)[b, :new]
            done_B += real_BL.sum(-1, dtype=np.int32)
    for b, n in enumerate(lengths):
        np.testing.assert_allclose(
            found_BLD[b, :n], plain(weights, x_BLD[b, :n]), rtol=1e-4, atol=1e-5
        )


def test_no_large_weight_lies_whole_at_rest():
    mesh = under({"fsdp": 4, "tensor": 2})
    for path, leaf in jax.tree.leaves_with_path(parts(24)[1]):
        axes = {
            axis
            for axis in named(mesh, letters_of(path[-1].key), leaf.shape, at_rest=True).spec
            if axis
        }
        heads = "H" in letters_of(path[-1].key)
        assert axes == ({"fsdp", "tensor"} if heads else {"fsdp"}), path


def test_what_attention_mixes_has_its_name_once():
    """A second name would keep it twice under remat."""
    with jax.set_mesh(under(ONE_DEVICE)):
        layer = LatentAttention(
            D=D,
            H=H,
            A=A,
            A2=A2,
            A3=A3,
            latent=LATENT,
            query_latent=24,
            attend=attend_of(Execution(attention="plain")),
            rngs=nnx.Rngs(0),
        )
        _, batch = case()
        rows = rows_of(jnp.array(batch.positions_BL), jnp.array(batch.segments_BL))
        assert (
            str(jax.make_jaxpr(lambda x_BLD: layer(x_BLD, rows))(jnp.zeros((B, L, D)))).count(
                "name=mixed"
            )
            == 1
        )
