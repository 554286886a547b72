"""Laws of the mixture of experts: it is the sum that its definition says, on every mesh, however its tokens
travel.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from model.execution import Execution, Remat
from model.kernels.context import is_balanced
from model.layers.moe import MoE
from model.layers.rows import Rows
from model.layers.stack import Stack
from model.layers.stacked_names import stacked_name
from model.layers.weight import in_use, map_leaves
from model.sharding import letters_of, named, shard
from tests.examples import ONE_DEVICE, quick_jit, under
from tests.model.moe_layer import (
    GROUPED,
    MATRIX,
    ROOM,
    ROUTER,
    WITHOUT_BALANCE,
    D,
    E,
    F,
    L,
    assert_same,
    choosing,
    gated,
    host_params,
    host_rows,
    loss_of,
    make,
    on_mesh,
    on_one_device,
    plain,
    taken,
)


@pytest.mark.parametrize(
    ("router", "factor", "room"),
    [(ROUTER, None, L), (GROUPED, None, L), (ROUTER, 1.0, 3), (ROUTER, 0.3, 1)],
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
    assert_same(
        on_one_device(router, factor), jax.tree.map(np.asarray, (value, aux, y_BLD, gradients))
    )


@pytest.mark.parametrize(("sizes", "factor", "router"), MATRIX)
def test_every_mesh_gives_the_loss_and_the_gradients_of_one_device(sizes, factor, router):
    assert_same(on_mesh(sizes, router, factor), on_one_device(router, factor))


def test_with_room_for_all_nothing_is_dropped_and_capacity_changes_nothing():
    assert_same(on_one_device(ROUTER, ROOM), on_one_device(ROUTER, None))


@pytest.mark.parametrize(
    "sizes",
    [{"expert": 8}, pytest.param({"expert": 2, "tensor": 2, "data": 2}, marks=pytest.mark.slow)],
)
def test_when_all_tokens_choose_one_device_nothing_is_dropped(sizes):
    """Then its buffer is filled several times."""
    x_BLD, segments_BL = host_rows()
    params = {**host_params(), "router_DE": np.zeros((D, E), np.float32)}
    params["router_DE"][0] = np.where(np.arange(E) < 3, 4.0 - np.arange(E), -np.arange(E))
    rows = (
        np.abs(x_BLD) + 0.1,
        segments_BL,
    )  # the sign of the first number decides, so all choose 0, 1, 2
    found, wanted = (
        on_mesh(sizes, rows=rows, params=params),
        on_mesh(ONE_DEVICE, rows=rows, params=params),
    )
    n = int((segments_BL > 0).sum())
    assert found[1]["load_E"].tolist() == [n, n, n, 0, 0, 0, 0, 0]
    assert_same(found, wanted)


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
    before, after = (
        on_mesh(ONE_DEVICE, factor=0.7, rows=(x, segments_BL))[2] for x in (x_BLD, changed_BLD)
    )
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert np.abs(before - after)[:, 4:].max() > 0.01


@pytest.mark.parametrize(
    "sizes", [{"context": 2, "tensor": 2, "expert": 2}, {"context": 4, "expert": 2}]
)
def test_rows_that_devices_hold_in_balanced_order_lose_what_they_lose_as_they_read(sizes):
    x_BLD, segments_BL = host_rows()
    rows = x_BLD.reshape(6, 8, D), np.where(np.arange(8) < 7, 1, segments_BL.reshape(6, 8))
    with jax.set_mesh(under(sizes)):
        assert is_balanced(8)
    found, wanted = (
        on_mesh(sizes, factor=0.7, rows=rows),
        on_mesh(ONE_DEVICE, factor=0.7, rows=rows),
    )
    assert wanted[1]["dropped"] > 10
    assert_same(found, wanted)


@pytest.mark.parametrize("factor", [None, pytest.param(ROOM, marks=pytest.mark.slow)])
def test_one_token_a_row_passes_on_a_mesh_that_divides_positions(factor):
    """Decoding: one position cannot be divided over context and tensor, so it lies whole."""
    x_BLD, segments_BL = host_rows()
    rows = np.ascontiguousarray(x_BLD[:, :1]), segments_BL[:, :1]
    sizes = {"tensor": 2, "context": 2, "expert": 2}
    assert_same(
        on_mesh(sizes, factor=factor, rows=rows), on_mesh(ONE_DEVICE, factor=factor, rows=rows)
    )


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
                return nnx.merge(definition, in_use(params, "float32"))(shard(x_BLD, "BLD"), rows)[
                    0
                ]

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
        params = map_leaves(
            {"moe": one}, lambda name, w: (stacked_name(name), 0.5 * np.stack([w] * N))
        )
        params = jax.tree.map_with_path(
            lambda path, w: jax.device_put(w, named(mesh, letters_of(path[-1].key), at_rest=True)),
            params,
        )
        x_BLD, segments_BL = (
            jax.device_put(x, named(mesh, to))
            for x, to in zip(host_rows(), ("BlD", "BL"), strict=True)
        )

        def loss(params, x_BLD):
            y_BLD, aux = stack.apply(
                params, x_BLD, Rows(segments_BL, segments_BL, {}), dtype="float32"
            )
            penalty, dropped = jnp.sum(aux["penalty"]), jnp.sum(aux["dropped"])
            return loss_of(y_BLD, {"penalty": penalty}), (
                {"load_E": aux["load_E"], "dropped": dropped},
                y_BLD,
            )

        (value, (aux, y_BLD)), gradients = quick_jit(
            jax.value_and_grad(loss, (0, 1), has_aux=True)
        )(params, x_BLD)
    return jax.tree.map(np.asarray, (value, aux, y_BLD, gradients))


@pytest.mark.parametrize(
    "sizes", [{"expert": 2, "tensor": 2, "fsdp": 2}, {"stage": 2, "expert": 2, "fsdp": 2}]
)
def test_a_stack_with_rematerialisation_gives_the_same_on_a_mesh_as_without_on_one_device(sizes):
    alone = in_a_stack(ONE_DEVICE, "none")
    assert alone[1]["load_E"].shape == (4, E)
    assert_same(in_a_stack(sizes, "full"), alone)


def test_in_bfloat16_the_router_still_sees_float32():
    """Two experts whose logits, 1 and 1 + 1/1024, are equal in bfloat16."""
    with jax.set_mesh(under(ONE_DEVICE)):
        definition = nnx.split(nnx.eval_shape(lambda: make(choosing(1), shared_F=0)))[0]
        params = {
            name: jnp.asarray(w, jnp.bfloat16)
            for name, w in host_params().items()
            if name != "shared"
        }
        params["router_DE"] = jnp.zeros((D, E), jnp.bfloat16).at[:2, 5].set(1).at[0, 3].set(1)
        x_BLD = (
            jnp.zeros((1, 1, D), jnp.bfloat16)
            .at[0, 0, :2]
            .set(jnp.array([1, 2.0**-10], jnp.bfloat16))
        )
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
        pytest.raises(
            ValueError, match=r"capacity_factor=0.0 is not positive|top_k=9 is not between"
        ),
    ):
        make(**changes)
