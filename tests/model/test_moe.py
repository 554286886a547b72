"""Laws of the mixture of experts: it is the sum that its definition says, on every mesh, however its tokens
travel.
"""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from model.execution import Execution, Remat
from model.kernels.context import balance, is_balanced, unbalance
from model.kernels.grouped import grouped_matmul, tiled_matmul
from model.layers.moe import MoE
from model.layers.router import Router, as_scored, renormalised
from model.layers.rows import Rows
from model.layers.stack import Stack, in_use, map_leaves, stacked_name
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
MATRIX = [
    pytest.param(sizes, factor, router, marks=[] if quick else [pytest.mark.slow])
    for sizes in MESHES
    for factor, router, quick in (
        (None, ROUTER, True),
        (None, GROUPED, sizes == MESHES[1]),
        (ROOM, ROUTER, sizes == MESHES[3]),
        (1.0, ROUTER, sizes in (MESHES[2], MESHES[3])),
    )
]


def make(router: Router = ROUTER, factor: float | None = None, shared_F: int = 14) -> MoE:
    return MoE(D=D, F=F, E=E, router=router, rngs=nnx.Rngs(0), shared_F=shared_F, capacity_factor=factor)


@cache
def host_params(router: Router = ROUTER, seed: int = 0, **changes) -> dict:
    with jax.set_mesh(under(ONE_DEVICE)):
        shapes = nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: make(router, **changes))))
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda s: rng.normal(0, s.shape[-2] ** -0.5 if len(s.shape) > 1 else 0.2, s.shape).astype(np.float32),
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
            lambda path, w: jax.device_put(w, named(mesh, letters_of(path[-1].key), at_rest=True)), params
        )
        x_BLD = jax.device_put(x_BLD, named(mesh, "BlD", x_BLD.shape))
        segments_BL = jax.device_put(segments_BL, named(mesh, "BL", segments_BL.shape))
        (value, (aux, y_BLD)), gradients = quick_jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(
            params, x_BLD, segments_BL
        )
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
        (x_BLD @ params["router_DE"]).reshape(-1, E), jnp.asarray(params.get("router_bias_E", NO_BIAS_E))
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
    y_BLD = gated(x_BLD, *(params["shared"][name] for name in ("w_gate_DF", "w_up_DF", "w_down_FD")))
    for e in range(E):
        weight_BL = (
            jnp.sum(jnp.where(routes.experts_MS == e, routes.weights_MS, 0.0), -1).reshape(segments_BL.shape)
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


def assert_equal(found, wanted) -> None:
    (loss, aux, y_BLD, gradients), (wanted_loss, wanted_aux, wanted_y_BLD, wanted_gradients) = found, wanted
    assert abs(loss - wanted_loss) <= 1e-6 * abs(wanted_loss)
    assert relative(y_BLD, wanted_y_BLD) <= 1e-5
    np.testing.assert_array_equal(aux["load_E"], wanted_aux["load_E"])
    assert aux["dropped"] == wanted_aux["dropped"]
    worst = jax.tree.map(relative, gradients, wanted_gradients)
    assert max(jax.tree.leaves(worst)) <= 1e-5, worst


@pytest.mark.parametrize(
    ("router", "factor", "room"), [(ROUTER, None, L), (GROUPED, None, L), (ROUTER, 1.0, 3), (ROUTER, 0.3, 1)]
)
def test_it_is_the_weighted_sum_of_the_chosen_experts(router, factor, room):
    params, (x_BLD, segments_BL) = host_params(router), map(jnp.asarray, host_rows(router))
    taken_BLE = taken(params, x_BLD, segments_BL, router, room)

    def loss(params, x_BLD):
        y_BLD, aux = plain(params, x_BLD, segments_BL, taken_BLE, router)
        return loss_of(y_BLD, aux), (aux, y_BLD)

    (value, (aux, y_BLD)), gradients = quick_jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(
        params, x_BLD
    )
    assert (aux["dropped"] > 0) == (factor is not None)
    assert_equal(on_one_device(router, factor), jax.tree.map(np.asarray, (value, aux, y_BLD, gradients)))


@pytest.mark.parametrize(("sizes", "factor", "router"), MATRIX)
def test_every_mesh_gives_the_loss_and_the_gradients_of_one_device(sizes, factor, router):
    assert_equal(on_mesh(sizes, router, factor), on_one_device(router, factor))


def test_with_room_for_all_nothing_is_dropped_and_capacity_changes_nothing():
    assert_equal(on_one_device(ROUTER, ROOM), on_one_device(ROUTER, None))


@pytest.mark.parametrize(
    "sizes", [{"expert": 8}, pytest.param({"expert": 2, "tensor": 2, "data": 2}, marks=pytest.mark.slow)]
)
def test_when_all_tokens_choose_one_device_nothing_is_dropped(sizes):
    """Then its buffer is filled several times."""
    x_BLD, segments_BL = host_rows()
    params = {**host_params(), "router_DE": np.zeros((D, E), np.float32)}
    params["router_DE"][0] = np.where(np.arange(E) < 3, 4.0 - np.arange(E), -np.arange(E))
    rows = np.abs(x_BLD) + 0.1, segments_BL  # the sign of the first number decides, so all choose 0, 1, 2
    found, wanted = on_mesh(sizes, rows=rows, params=params), on_mesh(ONE_DEVICE, rows=rows, params=params)
    n = int((segments_BL > 0).sum())
    assert found[1]["load_E"].tolist() == [n, n, n, 0, 0, 0, 0, 0]
    assert_equal(found, wanted)


@pytest.mark.parametrize("factor", [None, 1.0])
def test_padding_passes_the_shared_expert_alone(factor):
    x_BLD, segments_BL = host_rows()
    y_BLD = on_one_device(ROUTER, factor)[2]
    shared = host_params()["shared"]
    alone_BLD = gated(x_BLD, shared["w_gate_DF"], shared["w_up_DF"], shared["w_down_FD"])
    padding_BL = segments_BL == 0
    np.testing.assert_allclose(y_BLD[padding_BL], alone_BLD[padding_BL], rtol=1e-5, atol=1e-6)
    assert np.abs(y_BLD - alone_BLD)[~padding_BL].max() > 0.01


def test_a_later_token_does_not_decide_what_is_dropped_of_earlier_ones():
    x_BLD, segments_BL = host_rows()
    changed_BLD = np.concatenate([x_BLD[:, :4], x_BLD[::-1, 4:]], 1)
    before, after = (on_mesh(ONE_DEVICE, factor=0.7, rows=(x, segments_BL))[2] for x in (x_BLD, changed_BLD))
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert np.abs(before - after)[:, 4:].max() > 0.01


@pytest.mark.parametrize("sizes", [{"context": 2, "tensor": 2, "expert": 2}, {"context": 4, "expert": 2}])
def test_rows_that_devices_hold_in_balanced_order_lose_what_they_lose_as_they_read(sizes):
    x_BLD, segments_BL = host_rows()
    rows = x_BLD.reshape(6, 8, D), np.where(np.arange(8) < 7, 1, segments_BL.reshape(6, 8))
    with jax.set_mesh(under(sizes)):
        assert is_balanced(8)
    found, wanted = on_mesh(sizes, factor=0.7, rows=rows), on_mesh(ONE_DEVICE, factor=0.7, rows=rows)
    assert wanted[1]["dropped"] > 10
    assert_equal(found, wanted)


@pytest.mark.parametrize("factor", [None, ROOM])
def test_one_token_a_row_passes_on_a_mesh_that_divides_positions(factor):
    """Decoding: one position cannot be divided over context and tensor, so it lies whole."""
    x_BLD, segments_BL = host_rows()
    rows = np.ascontiguousarray(x_BLD[:, :1]), segments_BL[:, :1]
    sizes = {"tensor": 2, "context": 2, "expert": 2}
    assert_equal(on_mesh(sizes, factor=factor, rows=rows), on_mesh(ONE_DEVICE, factor=factor, rows=rows))


def test_tokens_that_are_decoded_are_dropped_in_their_own_order_on_any_mesh():
    """Whole rows lie balanced over `context`, later positions first on some devices; a chunk that is
    decoded does not.
    """
    x_BLD = host_rows()[0].reshape(4, -1, D)
    segments_BL = np.ones(x_BLD.shape[:2], np.int32)

    def decoded(sizes: dict[str, int]) -> np.ndarray:
        with jax.set_mesh(under(sizes)):
            assert is_balanced(x_BLD.shape[1]) == bool(sizes)
            definition = nnx.split(nnx.eval_shape(lambda: make(ROUTER, 0.5)))[0]

            def run(params, x_BLD, segments_BL):
                segments_BL = shard(segments_BL, "BL")
                rows = Rows(segments_BL, segments_BL, {}, lengths_B=jnp.zeros(4, jnp.int32))
                return nnx.merge(definition, in_use(params, "float32"))(shard(x_BLD, "BLD"), rows)[0]

            return np.asarray(quick_jit(run)(host_params(ROUTER, shared_F=14), x_BLD, segments_BL))

    np.testing.assert_allclose(
        decoded({"context": 2, "expert": 4}), decoded(ONE_DEVICE), rtol=1e-4, atol=1e-5
    )


class Residual(nnx.Module):
    """x + MoE(x)."""

    def __init__(self, rngs: nnx.Rngs):
        self.moe = MoE(D=D, F=F, E=E, router=WITHOUT_BALANCE, rngs=rngs)

    def __call__(self, x_BLD, rows: Rows):
        y_BLD, aux = self.moe(shard(x_BLD, "BLD"), rows)
        return x_BLD + y_BLD, aux


def in_a_stack(sizes: dict[str, int], preset: str, N: int = 4):
    """Loss, sums, result and gradients of four layers with equal experts."""
    mesh = under(sizes)
    one = {name: w for name, w in host_params().items() if name != "shared"}
    with jax.set_mesh(mesh):
        stack = Stack((Residual,), N=N, execution=Execution(remat=Remat(preset=preset)))
        params = map_leaves({"moe": one}, lambda name, w: (stacked_name(name), 0.5 * np.stack([w] * N)))
        params = jax.tree.map_with_path(
            lambda path, w: jax.device_put(w, named(mesh, letters_of(path[-1].key), at_rest=True)), params
        )
        x_BLD, segments_BL = (
            jax.device_put(x, named(mesh, to)) for x, to in zip(host_rows(), ("BlD", "BL"), strict=True)
        )

        def loss(params, x_BLD):
            y_BLD, aux = stack.apply(params, x_BLD, Rows(segments_BL, segments_BL, {}), dtype="float32")
            penalty, dropped = jnp.sum(aux["penalty"]), jnp.sum(aux["dropped"])
            return loss_of(y_BLD, {"penalty": penalty}), (
                {"load_E": aux["load_E"], "dropped": dropped},
                y_BLD,
            )

        (value, (aux, y_BLD)), gradients = quick_jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(
            params, x_BLD
        )
    return jax.tree.map(np.asarray, (value, aux, y_BLD, gradients))


@pytest.mark.parametrize(
    "sizes", [{"expert": 2, "tensor": 2, "fsdp": 2}, {"stage": 2, "expert": 2, "fsdp": 2}]
)
def test_a_stack_with_rematerialisation_gives_the_same_on_a_mesh_as_without_on_one_device(sizes):
    alone = in_a_stack(ONE_DEVICE, "none")
    assert alone[1]["load_E"].shape == (4, E)
    assert_equal(in_a_stack(sizes, "full"), alone)


def test_in_bfloat16_the_router_still_sees_float32():
    """Two experts whose logits, 1 and 1 + 1/1024, are equal in bfloat16."""
    with jax.set_mesh(under(ONE_DEVICE)):
        definition = nnx.split(nnx.eval_shape(lambda: make(choosing(1), shared_F=0)))[0]
        params = {name: jnp.asarray(w, jnp.bfloat16) for name, w in host_params().items() if name != "shared"}
        params["router_DE"] = jnp.zeros((D, E), jnp.bfloat16).at[:2, 5].set(1).at[0, 3].set(1)
        x_BLD = jnp.zeros((1, 1, D), jnp.bfloat16).at[0, 0, :2].set(jnp.array([1, 2.0**-10], jnp.bfloat16))
        rows = Rows(jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), jnp.int32), {})
        y_BLD, aux = quick_jit(lambda params, x_BLD: nnx.merge(definition, params)(x_BLD, rows))(
            params, x_BLD
        )
    assert y_BLD.dtype == jnp.bfloat16
    assert aux["load_E"].tolist() == [0, 0, 0, 0, 0, 1, 0, 0]


@pytest.mark.parametrize("changes", [{"factor": 0.0}, {"router": choosing(9)}])
def test_impossible_layers_are_refused(changes):
    with (
        jax.set_mesh(under(ONE_DEVICE)),
        pytest.raises(ValueError, match=r"capacity_factor=0.0 is not positive|top_k=9 is not between"),
    ):
        make(**changes)


@pytest.mark.parametrize(
    "sizes_E", [(200, 0, 57, 128, 1), (0, 0, 0, 0, 0), (0, 0, 386, 0, 0), (1, 1, 1, 1, 1)]
)
def test_tiles_multiply_each_row_with_the_matrix_of_its_group(sizes_E):
    rng = np.random.default_rng(0)
    x_CD, w_EDF = rng.normal(size=(386, 9)).astype(np.float32), rng.normal(size=(5, 9, 4)).astype(np.float32)
    group_C = np.repeat(np.arange(5), sizes_E)
    n = len(group_C)

    def tiled(x_CD, w_EDF):
        y_CF = tiled_matmul(x_CD, w_EDF, jnp.asarray(sizes_E, jnp.int32))
        return jnp.sum(jnp.sin(y_CF)), y_CF

    def by_rows(x_CD, w_EDF):
        y_CF = jnp.sum(x_CD[:n, :, None] * w_EDF[group_C], 1)
        return jnp.sum(jnp.sin(y_CF)), y_CF

    (_, y_CF), gradients = quick_jit(jax.value_and_grad(tiled, (0, 1), has_aux=True))(x_CD, w_EDF)
    (_, wanted_CF), wanted = quick_jit(jax.value_and_grad(by_rows, (0, 1), has_aux=True))(x_CD, w_EDF)
    np.testing.assert_allclose(y_CF[:n], wanted_CF, rtol=1e-5, atol=1e-5)
    assert not np.any(y_CF[n:])
    for found, right in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-5)


def test_the_grouped_product_of_this_platform_is_that_of_ragged_dot():
    rng = np.random.default_rng(1)
    x_CD, w_EDF = (
        jnp.asarray(rng.normal(size=(40, 6)), jnp.float32),
        jnp.asarray(rng.normal(size=(3, 6, 5)), jnp.float32),
    )
    sizes_E = jnp.asarray([7, 0, 33], jnp.int32)
    with jax.set_mesh(under(ONE_DEVICE)):
        found_CF = grouped_matmul(x_CD, w_EDF, sizes_E)
    np.testing.assert_allclose(found_CF, jax.lax.ragged_dot(x_CD, w_EDF, sizes_E), rtol=1e-5, atol=1e-5)
