"""Laws of the pipeline: what comes out, and every gradient, is that of the layers one after the other."""

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.exits import local
from model.layers.pipeline import (
    Schedule,
    by_stage,
    canonical_order,
    one_layer,
    pipeline,
    stage_order,
    turn,
)
from model.layers.weight import map_leaves
from model.mesh import make_mesh
from model.sharding import einsum, letters_of, named, shard
from tests.examples import ONE_DEVICE, quick_jit, under

N, B, L, D, F = 12, 16, 4, 6, 8
LAYOUT = {"x_BlD": "BlD", "shift_BL": "BL", "on_x_BlD": "BlD"}


def layer(
    x_BlD: jax.Array, weights: dict[str, jax.Array], rows: dict[str, jax.Array], *, scale: float
) -> tuple[jax.Array, dict[str, Any]]:
    """A residual layer of two products, with a fully manual function between them, that differs by row and
    by place in the pattern.
    """
    w_up_DF, w_down_FD = (
        shard(weights[name], letters_of(name)) for name in ("w_up_DF", "w_down_FD")
    )
    h_BLF = (
        einsum("BLD,DF->BLF", shard(x_BlD, "BLD"), w_up_DF) + scale * rows["shift_BL"][:, :, None]
    )
    h_BLF = local(jnp.tanh, ("BLF",), "BLF")(h_BLF)
    n_positive_F = shard(jnp.sum(h_BLF > 0, (0, 1), dtype=jnp.int32), "F")
    return x_BlD + einsum("BLF,FD->BlD", h_BLF, w_down_FD), {
        "penalty": jnp.sum(h_BLF**2),
        "n_positive_F": n_positive_F,
    }


PATTERNS = {
    "one": (partial(layer, scale=1.0),),
    "two": (partial(layer, scale=1.0), partial(layer, scale=-0.5)),
}
remat = partial(jax.checkpoint, prevent_cse=False)


def one_after_the_other(
    pattern: str, weights: Any, x_BlD: jax.Array, rows: Any
) -> tuple[jax.Array, Any]:
    outs, layers = [], PATTERNS[pattern]
    for i in range(N):
        x_BlD, out = layers[i % len(layers)](
            x_BlD, jax.tree.map(lambda x, i=i: x[i], weights), rows
        )
        outs.append(out)
    return x_BlD, jax.tree.map(lambda *outs: jnp.stack(outs), *outs)


@cache
def host_arrays() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)

    def draw(scale, *shape):
        return rng.normal(0, scale, shape).astype(np.float32)

    arrays = {
        "x_BlD": draw(1, B, L, D),
        "shift_BL": draw(1, B, L),
        "on_x_BlD": draw(1, B, L, D),
        "on_penalty": draw(1, N),
    }
    return {"w_up_DF": draw(0.3, N, D, F), "w_down_FD": draw(0.3, N, F, D)}, arrays


def results(apply: Any, order: np.ndarray, sizes: dict[str, int]) -> dict[str, np.ndarray]:
    """x, outs and gradients on a mesh, [N, …] in the order of the model, of a loss that weighs every
    layer's penalty differently.
    """
    weights, arrays = host_arrays()

    def loss(weights: Any, x_BlD: jax.Array, arrays: Any) -> tuple[jax.Array, Any]:
        y_BlD, outs = apply(weights, x_BlD, {"shift_BL": arrays["shift_BL"]})
        return jnp.sum(y_BlD * arrays["on_x_BlD"]) + jnp.sum(
            outs["penalty"] * arrays["on_penalty"]
        ), (
            y_BlD,
            outs,
        )

    mesh = make_mesh(jax.devices()[: int(np.prod(list(sizes.values()) or [1]))], **sizes)
    with jax.set_mesh(mesh):

        def put(x, letters):
            return jax.device_put(x, named(mesh, letters, x.shape, at_rest=letters.startswith("N")))

        weights = {name: put(x[order], f"N{letters_of(name)}") for name, x in weights.items()}
        arrays = {
            name: put(x[order], "N") if name == "on_penalty" else put(x, LAYOUT[name])
            for name, x in arrays.items()
        }
        gradient_of = quick_jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
        (_, (y_BlD, outs)), (dw, dx_BlD) = gradient_of(weights, arrays["x_BlD"], arrays)
        assert all(
            dw[name].sharding.is_equivalent_to(weights[name].sharding, 3) for name in weights
        )
    back = np.argsort(order)
    return {"y": np.asarray(y_BlD), "dx": np.asarray(dx_BlD)} | {
        k: np.asarray(x)[back] for k, x in (outs | dw).items()
    }


@cache
def expected(pattern: str) -> dict[str, np.ndarray]:
    return results(partial(one_after_the_other, pattern), np.arange(N), ONE_DEVICE)


def piped(
    pattern: str, sizes: dict[str, int], *, rounds: int, micro_batches: int
) -> dict[str, np.ndarray]:
    order = stage_order(N, stages=sizes["stage"], rounds=rounds)
    apply = partial(
        pipeline, PATTERNS[pattern], remat=remat, rounds=rounds, micro_batches=micro_batches
    )
    return results(apply, order, sizes)


def assert_equal(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    differ = {
        name: np.linalg.norm(found[name] - x) / np.linalg.norm(x) for name, x in wanted.items()
    }
    assert {name: x for name, x in differ.items() if not x <= 1e-5} == {}


@pytest.mark.parametrize(
    ("sizes", "rounds", "micro_batches", "pattern"),
    [({"stage": 2}, 1, 0, "one"), ({"stage": 2, "fsdp": 2, "tensor": 2}, 3, 4, "two")],
    ids=str,
)
def test_a_pipeline_equals_its_layers_one_after_the_other(sizes, rounds, micro_batches, pattern):
    assert_equal(
        piped(pattern, sizes, rounds=rounds, micro_batches=micro_batches), expected(pattern)
    )


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("pattern", ["one", "two"])
@pytest.mark.parametrize(
    "sizes",
    [
        {"stage": 2},
        {"stage": 4},
        {"stage": 2, "fsdp": 2, "tensor": 2},
        {"data": 2, "stage": 2, "context": 2},
        {"stage": 2, "expert": 4},
    ],
    ids=str,
)
def test_every_schedule_equals_the_layers_one_after_the_other(sizes, rounds, groups, pattern):
    stages = sizes["stage"]
    if N // stages // rounds * rounds * stages < N or N // stages // rounds % len(
        PATTERNS[pattern]
    ):
        with pytest.raises(ValueError, match="architecture.layers=12"):
            piped(pattern, sizes, rounds=rounds, micro_batches=stages * groups)
        return
    assert_equal(
        piped(pattern, sizes, rounds=rounds, micro_batches=stages * groups), expected(pattern)
    )


@given(stages=st.integers(1, 6), rounds=st.integers(1, 4), n=st.integers(1, 3))
def test_the_order_in_memory_gives_every_stage_the_layers_of_its_rounds(stages, rounds, n):
    size = {"stages": stages, "rounds": rounds}
    total = stages * rounds * n
    order = stage_order(total, **size)
    assert sorted(order) == list(range(total))
    assert np.array_equal(order[canonical_order(total, **size)], np.arange(total))
    for stage, mine in enumerate(np.split(order, stages)):
        assert [(i // n % stages, i // n // stages) for i in mine[::n]] == [
            (stage, r) for r in range(rounds)
        ]
    assert rounds > 1 or np.array_equal(order, np.arange(total))


@pytest.mark.parametrize(("stages", "rounds", "groups"), [(2, 1, 1), (3, 2, 2), (4, 3, 1)])
def test_every_micro_batch_goes_through_every_stage_once_a_round_and_is_where_it_is_needed(
    stages, rounds, groups
):
    schedule = Schedule("stage", stages, rounds, groups)
    ticks = schedule.n_turns + stages - 1
    when = {}
    for stage in range(stages):
        done = jax.tree.map(np.asarray, turn(schedule, jnp.arange(ticks) - stage))
        when |= {(stage, *(int(x[t]) for x in done[:3])): t for t in range(ticks) if done.live[t]}
    assert len(when) == stages * rounds * stages * groups
    for (stage, r, home, group), t in when.items():
        before = (stage - 1, r, home, group) if stage else (stages - 1, r - 1, home, group)
        assert before == (stages - 1, -1, home, group) or when[before] == t - 1


def test_one_layer_of_a_stack_on_stages_is_that_layer_everywhere():
    w_NDF = host_arrays()[0]["w_up_DF"].astype(jnp.bfloat16)
    with jax.set_mesh(mesh := under({"stage": 4, "fsdp": 2})):
        at_rest = {"w_NDF": jax.device_put(w_NDF, named(mesh, "NDF", at_rest=True))}
        compiled = jax.jit(one_layer).lower(at_rest, jnp.int32(0)).compile()
        layers = [compiled(at_rest, jnp.int32(i))["w_NDF"] for i in range(N)]
    assert np.array_equal(np.stack(layers), w_NDF)
    assert layers[0].sharding.is_equivalent_to(named(mesh, "DF", at_rest=True), 2)
    assert "all-gather" not in compiled.as_text()


def test_each_stage_can_make_its_own_layers():
    order = stage_order(N, stages=4, rounds=3)
    with jax.set_mesh(mesh := under({"stage": 4, "fsdp": 2})):
        mine = jax.device_put(order, named(mesh, "N", at_rest=True))
        made_N = jax.jit(
            by_stage(lambda order, key: jax.vmap(partial(jax.random.fold_in, key))(order))
        )(mine, jax.random.key(7))
    one_by_one = [jax.random.fold_in(jax.random.key(7), i) for i in order]
    assert np.array_equal(
        jax.random.key_data(made_N), [jax.random.key_data(key) for key in one_by_one]
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"rounds": 5},
            "architecture.layers=12 is no multiple of mesh.stage=2 times execution.pipeline.rounds=5",
        ),
        (
            {"rounds": 2},
            "layers=12 over mesh.stage=2 and execution.pipeline.rounds=2 are runs of 3 layers, no whole patterns of 2",
        ),
        (
            {"micro_batches": 3},
            "execution.pipeline.micro_batches=3 is no multiple of mesh.stage=2; set it to 4",
        ),
        (
            {"micro_batches": 1},
            "execution.pipeline.micro_batches=1 is no multiple of mesh.stage=2; set it to 2",
        ),
        (
            {"micro_batches": 6},
            "execution.pipeline.micro_batches=6 over mesh.stage=2 is 3 parts of the 4 rows of a device",
        ),
    ],
    ids=str,
)
def test_what_does_not_divide_is_refused_with_its_fields(changes, message):
    with pytest.raises(ValueError, match=message):
        piped("two", {"stage": 2, "fsdp": 2}, **{"rounds": 1, "micro_batches": 0} | changes)


def test_only_micro_batches_travel_between_stages():
    """Two permutes a tick each way, and at entry what all stages know of the rows; no weights."""
    weights, arrays = host_arrays()
    rows = {"shift_BL": arrays["shift_BL"]}
    with jax.set_mesh(mesh := under({"stage": 8})):

        def put(x, letters, **at):
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=named(mesh, letters, **at))

        args = (
            {
                name: put(np.tile(x, (2, 1, 1)), f"N{letters_of(name)}", at_rest=True)
                for name, x in weights.items()
            },
            put(arrays["x_BlD"], "BlD"),
            map_leaves(rows, lambda name, x: (name, put(x, "BL"))),
        )

        def loss(weights: Any, x_BlD: jax.Array, rows: Any) -> jax.Array:
            return jnp.sum(
                pipeline(
                    PATTERNS["one"], weights, x_BlD, rows, remat=remat, rounds=3, micro_batches=16
                )[0]
            )

        text = quick_jit(jax.grad(loss)).lower(*args).compile().as_text()
    found = [
        line
        for line in text.splitlines()
        if any(f" {kind}(" in line for kind in ("all-gather", "all-to-all", "collective-permute"))
    ]
    moved = [line.split(" = ")[1].split("{")[0] for line in found]
    assert set(moved) == {f"f32[1,{L},{D}]", f"f32[8,2,1,{L}]"}
