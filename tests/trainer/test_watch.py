"""What is shown of a step's insides is what stands in the trees, on every mesh, and costs nothing in other
steps.
"""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.stages import in_memory_order
from tests.examples import MESHES, ONE_DEVICE, at_rest_on, host_params, quick_jit, under
from trainer.norms import EDGES, Watch, group_of, norms_of

LAYERS = ("00", "01", "02")


def trees(mesh: jax.sharding.Mesh) -> dict[str, Any]:
    return {
        name: at_rest_on(mesh, host_params(seed=seed))
        for seed, name in enumerate(("params", "gradient", "updates"))
    }


def seen(
    watch: Watch, mesh: jax.sharding.Mesh, step: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """The row and the histograms of step number `step`."""
    with jax.set_mesh(mesh):
        arrays = quick_jit(watch.arrays)(jnp.array(step - 1), **trees(mesh))
    return watch.rows(step, arrays)


def expected(seed: int, group: str) -> np.ndarray:
    """All numbers of a group, one after the other."""
    params = host_params(seed=seed)
    if "/" not in group:
        return np.concatenate(
            [
                x.ravel()
                for x in jax.tree.leaves(
                    params.get(group, params.get(f"{group}_VD", params.get(f"{group}_DV")))
                )
            ]
        )
    _, layer, module = group.split("/")
    parts = [part for key, part in params["blocks"].items() if key.removesuffix("_norm") == module]
    return np.concatenate([x[int(layer)].ravel() for x in jax.tree.leaves(parts)])


@pytest.mark.parametrize("sizes", (ONE_DEVICE, MESHES[2]), ids=str)
def test_norms_are_those_of_the_groups_whatever_the_mesh(sizes):
    row, _ = seen(Watch(norms_every=3), under(sizes), 6)
    groups = [
        "embed",
        "norm",
        "unembed",
        *(
            f"blocks/{layer}/{module}"
            for layer in LAYERS
            for module in ("attention", "feed_forward")
        ),
    ]
    assert sorted(row) == sorted(
        f"norms/{kind}/{group}" for kind in ("gradient", "parameter", "update") for group in groups
    )
    for seed, kind in enumerate(("parameter", "gradient", "update")):
        for group in groups:
            assert row[f"norms/{kind}/{group}"] == pytest.approx(
                np.linalg.norm(expected(seed, group)), rel=1e-5
            ), (kind, group)


def test_every_number_is_in_one_group():
    row, _ = seen(Watch(norms_every=1), under(ONE_DEVICE), 1)
    squares = sum(value**2 for name, value in row.items() if name.startswith("norms/update/"))
    assert squares == pytest.approx(
        sum(float(np.sum(x**2)) for x in jax.tree.leaves(host_params(seed=2))), rel=1e-5
    )


def test_a_histogram_counts_every_finite_number_between_its_edges():
    _, histograms = seen(Watch(norms_every=0, histograms_every=2), under(MESHES[2]), 4)
    assert {name.split("/")[1] for name in histograms} == {"gradient", "parameter"}
    for name in ("blocks/01/feed_forward", "embed", "norm"):
        edges, counts = histograms[f"histograms/gradient/{name}"]
        np.testing.assert_array_equal(
            counts, np.histogram(expected(1, name), edges)[0], err_msg=name
        )


def test_numbers_beyond_the_edges_count_at_the_ends_and_those_that_are_not_finite_nowhere():
    tree = {
        "x_D": jnp.array([-1e30, -1.5, -1e-20, 0.0, 1e-20, 1.5, 1e30, jnp.nan, jnp.inf, -jnp.inf])
    }
    watch = Watch(norms_every=0, histograms_every=1)
    with jax.set_mesh(under(ONE_DEVICE)):
        _, histograms = watch.rows(1, watch.arrays(jnp.array(0), tree, tree, tree))
    edges, counts = histograms["histograms/gradient/x"]
    found = {(float(edges[i]), float(edges[i + 1])): int(counts[i]) for i in np.flatnonzero(counts)}
    tiny, large = 2.0**-30, 2.0**10
    assert found == {
        (-large, -large / 2): 1,
        (-2.0, -1.0): 1,
        (-tiny, tiny): 3,
        (1.0, 2.0): 1,
        (large / 2, large): 1,
    }
    assert len(EDGES) == len(counts) + 1


def test_other_steps_give_no_row():
    for watch in (Watch(norms_every=3, histograms_every=4), Watch(norms_every=0)):
        row, histograms = seen(watch, under(ONE_DEVICE), 5)
        assert row == {} and histograms == {}


def test_a_watch_that_is_off_adds_nothing_to_the_step():
    assert (
        Watch(norms_every=0).arrays(jnp.array(0), host_params(), host_params(), host_params()) == {}
    )


def test_devices_speak_to_each_other_only_inside_the_conditionals():
    mesh = under(MESHES[2])
    with jax.set_mesh(mesh):
        arrays = jax.jit(Watch(norms_every=3, histograms_every=3).arrays)
        text = arrays.lower(jnp.array(0), **trees(mesh)).compile().as_text()
    other, entry = text.split("\nENTRY ")
    collective = (
        r" (?:all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
    )
    assert re.findall(collective, other) and not re.findall(collective, entry)
    assert entry.count(" conditional(") == 5


def test_layers_that_lie_on_stages_are_named_in_the_order_of_the_model():
    mesh = under({"stage": 2, "fsdp": 4})
    x_ND = np.repeat(np.arange(8.0, dtype=np.float32)[:, None], 12, 1)
    with jax.set_mesh(mesh):
        tree = in_memory_order(at_rest_on(mesh, {"blocks": {"norm": {"scale_ND": x_ND}}}), rounds=2)
        assert np.asarray(tree["blocks"]["norm"]["scale_ND"])[2, 0] == 4, (
            "stage 0 holds layers 0, 1, 4, 5"
        )
        norms = quick_jit(norms_of, static_argnames="rounds")(tree, rounds=2)
    np.testing.assert_allclose(norms["blocks/norm_N"], np.arange(8) * 12**0.5, rtol=1e-6)


@pytest.mark.parametrize(
    ("leaf", "group"),
    [
        ("embed_VD", "embed"),
        ("norm/scale_D", "norm"),
        ("blocks/attention/wq_NDHA", "blocks/attention_N"),
        ("blocks/attention/q_norm/scale_NA", "blocks/attention_N"),
        ("blocks/feed_forward_post_norm/scale_ND", "blocks/feed_forward_N"),
        ("blocks/attention/wq_NDHA/a_NDR", "blocks/attention_N"),
        ("mtp/depth1/block/attention/wq_DHA", "mtp"),
    ],
)
def test_groups_are_read_off_the_names(leaf, group):
    assert group_of(leaf) == group
