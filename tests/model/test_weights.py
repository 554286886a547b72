"""Laws of weights of several arrays: what a node multiplies is what its arrays say, and codes are within
their bound.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from model.sharding import einsum, letters_of, look_up, named, shard, spec
from model.weights import LowRank, Quantized, as_array, is_weight, node, nodes, quantize, sides
from tests.examples import ONE_DEVICE, under

MESH = {"data": 2, "fsdp": 2, "tensor": 2}
SIZES = {"B": 8, "L": 6, "D": 12, "F": 16, "H": 4, "A": 3, "R": 5, "E": 2, "C": 7}
PRODUCTS = {  # equation -> (name of the weight, how many letters are of inputs)
    "BLD,DF->BLF": "w_DF",
    "BLF,FD->BlD": "w_FD",
    "BLD,DHA->BLHA": "w_DHA",
    "BLHA,HAD->BlD": "w_HAD",
    "BLHA,RHA->BLHR": "w_RHA",  # the transpose: what is summed over is an output of the weight
    "BLR,RHA->BLHA": "w_RHA",
    "EBCD,EDF->EBCF": "w_EDF",
}


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def shape_of(letters: str) -> tuple[int, ...]:
    return tuple(SIZES[letter] for letter in letters.upper())


def low_rank(name: str, rank: int = 3) -> dict[str, np.ndarray]:
    letters = sides(name)
    shapes = [letters.shared + letters.inputs, letters.shared, letters.outputs]
    before, shared, after = map(shape_of, shapes)
    return {
        f"base_{name.rsplit('_', 1)[1]}": drawn(*shape_of(letters_of(name)), seed=1),
        letters.a_name(): drawn(*before, rank, seed=2),
        letters.b_name(): drawn(*shared, rank, *after, seed=3),
        "scale": np.float32(1.5),
    }


def expected_weight(name: str, leaf: dict[str, np.ndarray]) -> np.ndarray:
    letters, own = sides(name), letters_of(name)
    a = f"{letters.shared}{letters.inputs}Z,{letters.shared}Z{letters.outputs}->{own}"
    update = np.einsum(a, leaf[letters.a_name()], leaf[letters.b_name()])
    return leaf[f"base_{own}"] + 1.5 * update


@pytest.mark.parametrize("mesh", [ONE_DEVICE, MESH], ids=str)
@pytest.mark.parametrize("equation", PRODUCTS)
def test_a_low_rank_product_is_that_of_base_and_update(equation, mesh):
    name = PRODUCTS[equation]
    x_letters = equation.split(",")[0]
    x, leaf = drawn(*shape_of(x_letters)), low_rank(name)
    with jax.set_mesh(under(mesh)):
        in_use = {key: shard(jnp.array(value), letters_of(key)) for key, value in leaf.items()}
        found = einsum(equation, shard(jnp.array(x), x_letters), node(in_use))
        assert jax.typeof(found).sharding.spec == spec(equation[-4:].lstrip("->"), found.shape)
    expected = np.einsum(equation.upper(), x, expected_weight(name, leaf))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_no_array_as_large_as_the_weight_is_made_for_a_product_or_its_gradients():
    D, F, R, B = 64, 96, 2, 3
    a_DR, b_RF, x_BD = jnp.ones((D, R)), jnp.ones((R, F)), jnp.ones((B, D))

    def total(a_DR, b_RF, base_DF):
        return einsum("BD,DF->BF", x_BD, LowRank(base_DF, a_DR, b_RF, jnp.float32(2))).sum()

    with jax.set_mesh(under(ONE_DEVICE)):
        jaxpr = jax.make_jaxpr(jax.grad(total, argnums=(0, 1)))(a_DR, b_RF, jnp.ones((D, F)))
    made = [var.aval.size for equation in jaxpr.eqns for var in equation.outvars]
    assert max(made) < D * F


@pytest.mark.parametrize("mesh", [ONE_DEVICE, MESH], ids=str)
def test_rows_of_a_table_are_those_of_base_and_update(mesh):
    table, ids_BL = (
        {"base_VD": drawn(16, 12), "a_VR": drawn(16, 3), "b_RD": drawn(3, 12)},
        np.arange(48),
    )
    expected = table["base_VD"] + 1.5 * table["a_VR"] @ table["b_RD"]
    ids_BL = ids_BL.reshape(8, 6) % 16
    with jax.set_mesh(under(mesh)):
        in_use = {key: shard(jnp.array(x), letters_of(key)) for key, x in table.items()}
        found = look_up(
            node({**in_use, "scale": jnp.float32(1.5)}), shard(jnp.array(ids_BL), "BL"), "BlD"
        )
    np.testing.assert_allclose(found, expected[ids_BL], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["w_NDF", "wo_NHAD", "wq_down_NDD2", "wk_NDKA", "w_gate_NEDF", "router_DE"]
)
def test_a_weight_as_one_array_has_the_same_bits_on_every_mesh(name):
    letters, sizes = sides(name), {**SIZES, "N": 4, "K": 2}

    def shape(tokens: str) -> tuple[int, ...]:
        return tuple(sizes[letter] for letter in letters_of(f"_{tokens}"))

    arrays = {
        "base_" + name.rsplit("_", 1)[1]: drawn(*shape("".join(letters)), seed=1),
        letters.a_name(): drawn(*shape(letters.shared + letters.inputs), 3, seed=2),
        letters.b_name(): drawn(*shape(letters.shared), 3, *shape(letters.outputs), seed=3),
        "scale": np.float32(0.7),
    }
    found = []
    for mesh in (ONE_DEVICE, MESH, {"expert": 2, "fsdp": 4}):
        with jax.set_mesh(on := under(mesh)):
            at_rest = {
                key: jax.device_put(x, named(on, letters_of(key), x.shape, at_rest=True))
                for key, x in arrays.items()
            }
            dense = jax.jit(lambda leaf: as_array(leaf))(at_rest)
            base = next(iter(at_rest.values()))
            assert dense.sharding.is_equivalent_to(base.sharding, base.ndim)
            found.append(np.array(dense))
    assert all(np.array_equal(each, found[0]) for each in found[1:])


@pytest.mark.parametrize("mesh", [ONE_DEVICE, {"fsdp": 8}, MESH], ids=str)
@pytest.mark.parametrize(
    ("name", "shape", "scales"),
    [
        ("w_NDF", (2, 256, 6), ("scale_NQF", (2, 2, 6))),
        ("wo_HAD", (8, 3, 16), ("scale_QAD", (1, 3, 16))),
        ("w_down_NEFD", (2, 4, 24, 8), ("scale_NEQD", (2, 4, 3, 8))),
    ],
)
def test_codes_are_within_half_a_step_of_the_largest_of_their_block(name, shape, scales, mesh):
    x = drawn(*shape)
    x[..., :1] = 0  # whole blocks of zeros
    with jax.set_mesh(on := under(mesh)):
        at_rest = jax.device_put(x, named(on, letters_of(name), shape, at_rest=True))
        leaf = jax.jit(lambda x: quantize(name, x))(at_rest)
        restored = np.array(jax.jit(as_array)(leaf))
    scale_name, scale_shape = scales
    codes, scale = leaf.values()
    assert codes.dtype == jnp.int8 and list(leaf)[1] == scale_name and scale.shape == scale_shape
    axis = next(i for i, letter in enumerate(letters_of(scale_name)) if letter == "Q")
    steps = np.repeat(np.array(scale), shape[axis] // scale_shape[axis], axis)
    assert (np.abs(restored - x) <= steps / 2 * (1 + 1e-5)).all()
    assert (restored[..., :1] == 0).all() and np.isfinite(restored).all()
    assert is_weight(leaf) and isinstance(node(leaf), Quantized)


def test_a_tree_keeps_its_names_and_its_arrays_when_weights_become_nodes():
    x = jnp.ones(2)
    low_rank_leaf = {"base_DF": {"codes_DF": x, "scale_QF": x}, "a_DR": x, "b_RF": x, "scale": x}
    tree = {"norm": {"scale_D": x}, "feed_forward": {"w_DF": low_rank_leaf, "b_F": x}}
    found = nodes(tree)
    assert found["norm"] == tree["norm"] and found["feed_forward"]["b_F"] is x
    assert found["feed_forward"]["w_DF"] == LowRank(Quantized(x, x), x, x, x)
    assert len(jax.tree.leaves(found)) == len(jax.tree.leaves(tree))


def test_a_node_lays_each_of_its_arrays_out_by_its_own_letters():
    x = jnp.ones((2, 2, 2))
    weight = LowRank(Quantized(x, x[:, :1]), x, x, x[0, 0, 0])
    with jax.set_mesh(under({"fsdp": 4, "tensor": 2})):
        layouts = weight.map(lambda array, letters: (letters, spec(letters)), "EDF")
    assert [
        letters for letters, _ in jax.tree.leaves(layouts, is_leaf=lambda x: type(x) is tuple)
    ] == [
        "EDF",
        "EQF",
        "EDR",
        "ERF",
        "",
    ]
    assert layouts.b[1] == PartitionSpec(None, None, "tensor")
