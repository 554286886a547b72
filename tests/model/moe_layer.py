"""A small mixture of experts on any mesh, its definition in numpy, and what is the same of two of them."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from model.kernels.context import balance, unbalance
from model.layers.moe import MoE
from model.layers.router import Router, as_scored, renormalised
from model.layers.rows import Rows
from model.layers.weight import in_use
from model.sharding import letters_of, named, shard
from tests.examples import ONE_DEVICE, quick_jit, under

B, L, D, F, E = 8, 6, 16, 10, 8
ROUTER = Router(top_k=3, score=jax.nn.softmax, weigh=renormalised, balance_loss=0.02, z_loss=0.001)
GROUPED = Router(
    top_k=2,
    score=jax.nn.sigmoid,
    weigh=as_scored,
    balance_loss=0.0,
    z_loss=0.001,
    n_groups=4,
    top_groups=2,
    scale=2.5,
    bias_rate=0.001,
)


def choosing(top_k: int) -> Router:
    return Router(top_k=top_k, score=jax.nn.softmax, weigh=as_scored, balance_loss=0.0, z_loss=0.0)


NO_BIAS_E = np.zeros(E, np.float32)
WITHOUT_BALANCE = replace(
    ROUTER, balance_loss=0.0
)  # it is no sum over rows, so parts of a batch in a pipeline have another one
ROOM = float(E)  # the capacity factor at which every expert has room for all tokens of a row
MESHES = (
    {"expert": 8},
    {"expert": 2, "fsdp": 4},
    {"expert": 2, "tensor": 2, "data": 2},
    {"tensor": 2, "context": 2, "expert": 2},
    {"fsdp": 8},
)
QUICK = {  # every mesh and every way of the tokens once; the others are slow
    (0, None, ROUTER),
    (1, None, GROUPED),
    (2, 1.0, ROUTER),
    (3, ROOM, ROUTER),
    (4, None, ROUTER),
}
MATRIX = [
    pytest.param(
        sizes,
        factor,
        router,
        marks=[] if (i, factor, router) in QUICK else [pytest.mark.slow],
    )
    for i, sizes in enumerate(MESHES)
    for factor, router in ((None, ROUTER), (None, GROUPED), (ROOM, ROUTER), (1.0, ROUTER))
]


def make(router: Router = ROUTER, factor: float | None = None, shared_F: int = 14) -> MoE:
    return MoE(
        D=D, F=F, E=E, router=router, rngs=nnx.Rngs(0), shared_F=shared_F, capacity_factor=factor
    )


@cache
def host_params(router: Router = ROUTER, seed: int = 0, **changes) -> dict:
    with jax.set_mesh(under(ONE_DEVICE)):
        shapes = nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: make(router, **changes))))
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda s: rng.normal(0, s.shape[-2] ** -0.5 if len(s.shape) > 1 else 0.2, s.shape).astype(
            np.float32
        ),
        shapes,
    )


@cache
def host_rows(router: Router = ROUTER, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Tokens whose choice is safe from rounding: the best score that was not chosen is 1e-3 below the worst
    that was; with padding.
    """
    rng = np.random.default_rng(seed)
    params = host_params(router)
    x_MD = rng.normal(size=(4 * B * L, D)).astype(np.float32)
    safe = [x_D for x_D in x_MD if margin(x_D, params, router) >= 1e-3][: B * L]
    assert len(safe) == B * L
    segments_BL = np.repeat(np.array([[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 1, 1]], np.int32), B // 2, 0)
    return np.stack(safe).reshape(B, L, D), segments_BL


def margin(x_D: np.ndarray, params: dict, router: Router) -> float:
    """How much a score, or the worth of a group, may change before the choice does."""
    scores_E = 1 / (1 + np.exp(-x_D @ params["router_DE"])) + params.get("router_bias_E", 0)
    if router.score is jax.nn.softmax:
        scores_E = np.exp(x_D @ params["router_DE"]) / np.exp(x_D @ params["router_DE"]).sum()
    groups = np.sort(scores_E.reshape(router.n_groups, -1), 1)[:, -2:].sum(1)
    worth = np.sort(groups)
    best = groups >= worth[-router.top_groups]
    ranked = np.sort(np.where(np.repeat(best, E // router.n_groups), scores_E, -np.inf))
    between_groups = (
        worth[-router.top_groups] - worth[-router.top_groups - 1]
        if router.top_groups < router.n_groups
        else np.inf
    )
    return min(between_groups, ranked[-router.top_k] - ranked[-router.top_k - 1])


def loss_of(y_BLD, aux) -> jax.Array:
    return jnp.sum(jnp.square(y_BLD + jnp.cos(jnp.arange(D)))) + aux["penalty"]


def on_mesh(
    sizes: dict[str, int],
    router: Router = ROUTER,
    factor: float | None = None,
    rows=None,
    params=None,
    shared_F: int = 14,
):
    """Loss, aux, result and gradients by parameters and tokens, as numpy arrays; inside, rows lie as a
    model holds them.
    """
    mesh = under(sizes)
    params = host_params(router, shared_F=shared_F) if params is None else params
    x_BLD, segments_BL = host_rows(router) if rows is None else rows
    with jax.set_mesh(mesh):
        definition = nnx.split(nnx.eval_shape(lambda: make(router, factor, shared_F)))[0]

        def loss(params, x_BLD, segments_BL):
            segments_BL = balance(segments_BL, "BL")
            rows = Rows(segments_BL, segments_BL, {})
            y_BLD, aux = nnx.merge(definition, in_use(params, "float32"))(
                balance(shard(x_BLD, "BLD"), "BLD"), rows
            )
            y_BLD = unbalance(y_BLD, "BlD")
            return loss_of(y_BLD, aux), (aux, y_BLD)

        params = jax.tree.map_with_path(
            lambda path, w: jax.device_put(w, named(mesh, letters_of(path[-1].key), at_rest=True)),
            params,
        )
        x_BLD = jax.device_put(x_BLD, named(mesh, "BlD", x_BLD.shape))
        segments_BL = jax.device_put(segments_BL, named(mesh, "BL", segments_BL.shape))
        (value, (aux, y_BLD)), gradients = quick_jit(
            jax.value_and_grad(loss, (0, 1), has_aux=True)
        )(params, x_BLD, segments_BL)
        assert jax.tree.map(lambda w, g: w.sharding == g.sharding, params, gradients[0])
    return jax.tree.map(np.asarray, (value, aux, y_BLD, gradients))


@cache
def on_one_device(router: Router = ROUTER, factor: float | None = None):
    return on_mesh(ONE_DEVICE, router, factor)


def taken(params, x_BLD, segments_BL, router: Router, room: int) -> np.ndarray:
    """Which expert computes which token, with at most `room` tokens of a row for each expert: choice after
    choice.
    """
    experts_MS = router.route(
        (x_BLD @ params["router_DE"]).reshape(-1, E),
        jnp.asarray(params.get("router_bias_E", NO_BIAS_E)),
    ).experts_MS
    taken_BLE = np.zeros((*segments_BL.shape, E), bool)
    for (b, at), experts in zip(np.ndindex(segments_BL.shape), experts_MS.tolist(), strict=True):
        for e in experts if segments_BL[b, at] else ():
            taken_BLE[b, at, e] = taken_BLE[b, :, e].sum() < room
    return taken_BLE


def plain(params, x_BLD, segments_BL, taken_BLE, router: Router):
    """The definition: every expert on every token, times the weight of the choice, or 0. Result and sums."""
    logits_ME = (x_BLD @ params["router_DE"]).reshape(-1, E)
    routes = router.route(logits_ME, jnp.asarray(params.get("router_bias_E", NO_BIAS_E)))
    balance = router.balance(logits_ME, routes, segments_BL.reshape(-1) > 0, ())
    y_BLD = gated(
        x_BLD, *(params["shared"][name] for name in ("w_gate_DF", "w_up_DF", "w_down_FD"))
    )
    for e in range(E):
        weight_BL = (
            jnp.sum(jnp.where(routes.experts_MS == e, routes.weights_MS, 0.0), -1).reshape(
                segments_BL.shape
            )
            * taken_BLE[..., e]
        )
        y_BLD += weight_BL[..., None] * gated(
            x_BLD, params["w_gate_EDF"][e], params["w_up_EDF"][e], params["w_down_EFD"][e]
        )
    dropped = jnp.sum(balance.load_E) - jnp.sum(taken_BLE)
    return y_BLD, {"penalty": balance.penalty, "load_E": balance.load_E, "dropped": dropped}


def gated(x_BLD, w_gate_DF, w_up_DF, w_down_FD):
    return (jax.nn.silu(x_BLD @ w_gate_DF) * (x_BLD @ w_up_DF)) @ w_down_FD


def relative(a, b) -> float:
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30))


def assert_same(found, wanted) -> None:
    (loss, aux, y_BLD, gradients), (wanted_loss, wanted_aux, wanted_y_BLD, wanted_gradients) = (
        found,
        wanted,
    )
    assert abs(loss - wanted_loss) <= 1e-6 * abs(wanted_loss)
    assert relative(y_BLD, wanted_y_BLD) <= 1e-5
    np.testing.assert_array_equal(aux["load_E"], wanted_aux["load_E"])
    assert aux["dropped"] == wanted_aux["dropped"]
    worst = jax.tree.map(relative, gradients, wanted_gradients)
    assert max(jax.tree.leaves(worst)) <= 1e-5, worst
