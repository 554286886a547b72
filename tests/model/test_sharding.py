"""Laws of the alphabet: letters are the layout, and what does not lie as its letters say is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AbstractMesh, AxisType, PartitionSpec
from pydantic import ValidationError

from model.exits import local
from model.mesh import Mesh, check_sizes, make_mesh, undivided
from model.sharding import ALPHABET, AXES, einsum, letters_of, look_up, named, reshape, shard, spec
from tests.examples import MESHES, under

# HOUSE's table once more, by hand: letter -> (at rest, in use); the other letters lie on no axis
LAYOUTS = {
    "B": (None, ("stage", "data", "fsdp", "expert")),
    "L": (None, "context"),
    "l": (None, ("context", "tensor")),
    "D": ("fsdp", None),
    "F": ("tensor", "tensor"),
    "H": ("tensor", "tensor"),
    "K": ("tensor", "tensor"),
    "V": ("tensor", "tensor"),
    "E": ("expert", "expert"),
    "N": ("stage", "stage"),
}


def abstract(*sizes: int) -> jax.sharding.use_abstract_mesh:
    return jax.sharding.use_abstract_mesh(
        AbstractMesh(sizes, AXES, axis_types=(AxisType.Explicit,) * len(AXES))
    )


def lies(x: jax.Array) -> tuple:
    return tuple(jax.typeof(x).sharding.spec.partitions)


@pytest.mark.parametrize("letter", ALPHABET)
def test_every_letter_lies_as_the_table_says(letter):
    at_rest, in_use = LAYOUTS.get(letter, (None, None))
    with abstract(2, 2, 2, 2, 2, 2):
        assert spec(letter, at_rest=True) == PartitionSpec(at_rest)
        assert spec(letter) == PartitionSpec(in_use)


def test_the_alphabet_has_the_letters_of_the_table_and_no_other_names_a_known_axis():
    assert set("BLlTDFHKGAVEMCNRSPJQUW") == set(ALPHABET)
    assert {axis for letter in ALPHABET.values() for axes in letter[1:] for axis in axes} == set(
        AXES
    )


@given(
    letters=st.text("".join(ALPHABET) + ".", max_size=7),
    sizes=st.tuples(*[st.sampled_from([1, 2])] * len(AXES)),
    at_rest=st.booleans(),
)
def test_a_layout_has_an_entry_a_letter_and_uses_no_axis_twice_and_none_of_size_1(
    letters, sizes, at_rest
):
    on = {axis for axis, size in zip(AXES, sizes, strict=True) if size > 1}
    claims = [
        axis
        for letter in set(letters) - {"."}
        for axis in ALPHABET[letter][1 + (not at_rest)]
        if axis in on
    ]
    with abstract(*sizes):
        if len(claims) > len(set(claims)):
            with pytest.raises(ValueError, match="both lie on"):
                spec(letters, at_rest=at_rest)
            return
        entries = spec(letters, at_rest=at_rest).partitions
    used = [
        axis
        for entry in entries
        if entry
        for axis in ((entry,) if isinstance(entry, str) else entry)
    ]
    assert len(entries) == len(letters)
    assert len(used) == len(set(used))
    assert all(sizes[AXES.index(axis)] > 1 for axis in used)


def test_a_repeated_letter_shards_its_first_occurrence():
    with abstract(1, 1, 4, 1, 1, 2):
        assert spec("DD", at_rest=True) == PartitionSpec("fsdp", None)
        assert spec("KGK") == PartitionSpec("tensor", None, None)


@pytest.mark.parametrize(
    ("name", "letters"),
    [
        ("blocks.attention.wq_NDHA", "NDHA"),
        ("cos_BLA2", "BLA"),
        ("w_A2R2", "AR"),
        ("a_B_D", "D"),
        ("norm", ""),
        ("w_up_df", ""),
        ("_D", "D"),
    ],
)
def test_the_last_letters_of_a_name_are_its_letters_without_digits(name, letters):
    assert letters_of(name) == letters


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_sharding_moves_an_array_and_changes_none_of_its_numbers(sizes):
    x_DF = np.arange(16.0 * 24).reshape(16, 24)
    with jax.set_mesh(under(sizes)):
        at_rest_DF = jax.jit(lambda x: shard(x, "DF", at_rest=True))(x_DF)
        in_use_DF = shard(at_rest_DF, "DF")
        assert (
            lies(at_rest_DF) == spec("DF", at_rest=True).partitions
            and lies(in_use_DF) == spec("DF").partitions
        )
    np.testing.assert_array_equal(at_rest_DF, x_DF)
    np.testing.assert_array_equal(in_use_DF, x_DF)


def test_the_result_of_a_product_lies_by_the_letters_after_the_arrow_and_is_the_product():
    rng = np.random.default_rng(0)
    x_BLF, w_FD = (
        rng.normal(size=(4, 5, 6)).astype(np.float32),
        rng.normal(size=(6, 8)).astype(np.float32),
    )
    with jax.set_mesh(under({"data": 2, "fsdp": 2, "tensor": 2})):
        y_BLD = einsum("BLF,FD->BLD", shard(jnp.array(x_BLF), "BLF"), shard(jnp.array(w_FD), "FD"))
        assert lies(y_BLD) == (("data", "fsdp"), None, None)
    np.testing.assert_allclose(y_BLD, x_BLF @ w_FD, rtol=1e-5, atol=1e-6)


def test_a_product_with_a_weight_not_yet_gathered_names_equation_and_operand():
    with jax.set_mesh(under({"fsdp": 4, "tensor": 2})):
        x_BLD, w_DF = shard(jnp.ones((4, 5, 8)), "BLD"), shard(jnp.ones((8, 6)), "DF", at_rest=True)
        with pytest.raises(
            ValueError,
            match=r"einsum 'BLD,DF->BLF': operand DF lies as .*'fsdp'.* use shard\(x, 'DF'\)",
        ):
            einsum("BLD,DF->BLF", x_BLD, w_DF)
        with pytest.raises(ValueError, match=r"einsum 'BLD,DF->BLF': operand BLD lies as"):
            jax.jit(lambda x, w: einsum("BLD,DF->BLF", shard(x, "..."), shard(w, "DF")))(
                x_BLD, w_DF
            )
        assert lies(einsum("BLD,DF->BLF", x_BLD, shard(w_DF, "DF"))) == ("fsdp", None, "tensor")


@pytest.mark.parametrize("letters", ["DFD", "D"])
def test_a_product_with_more_or_fewer_letters_than_dimensions_is_refused(letters):
    with jax.set_mesh(under({"fsdp": 8})), pytest.raises(ValueError, match="D"):
        einsum(f"{letters},DF->DF", jnp.ones((8, 6)), jnp.ones((8, 6)))


def test_a_product_accumulates_and_returns_in_the_dtype_asked_for():
    x_BL = jnp.full((2, 4096), 1.0, jnp.bfloat16)
    with jax.set_mesh(under({})):
        assert einsum("BL,BL->B", x_BL, x_BL, dtype=jnp.float32).tolist() == [4096.0] * 2
        assert einsum("BL,BL->B", x_BL, x_BL).dtype == jnp.bfloat16


def test_looking_up_a_table_on_any_mesh_gives_its_rows():
    table_VD, ids_BL = (
        np.arange(6 * 8.0).reshape(6, 8),
        np.array([[1, 5, 0], [2, 2, 3], [4, 0, 1], [5, 5, 5]]),
    )
    with jax.set_mesh(under({"data": 2, "fsdp": 2, "tensor": 2})):
        x_BLD = look_up(shard(jnp.array(table_VD), "VD"), shard(jnp.array(ids_BL), "BL"), "BLD")
        assert lies(x_BLD) == (("data", "fsdp"), None, None)
    np.testing.assert_array_equal(x_BLD, table_VD[ids_BL])


def test_a_reshape_states_its_layout():
    with jax.set_mesh(under({"fsdp": 4, "tensor": 2})):
        x_BLHA = shard(jnp.arange(4 * 3 * 4 * 2.0).reshape(4, 3, 4, 2), "BLHA")
        x_BLKGA = reshape(x_BLHA, (4, 3, 2, 2, 2), "BLKGA")
        assert lies(x_BLKGA) == ("fsdp", None, "tensor", None, None)
    np.testing.assert_array_equal(x_BLKGA, np.arange(96.0).reshape(4, 3, 2, 2, 2))


def test_a_local_function_sees_its_own_block_of_every_letter():
    with jax.set_mesh(under({"fsdp": 4, "tensor": 2})):
        seen = []
        x_BD, w_DF = shard(jnp.ones((8, 3)), "BD"), shard(jnp.ones((3, 10)), "DF")
        out_BF = jax.jit(
            local(lambda x, w: (seen.append((x.shape, w.shape)), x @ w)[1], ("BD", "DF"), "BF")
        )(x_BD, w_DF)
    assert seen[0] == ((2, 3), (3, 5))
    np.testing.assert_array_equal(out_BF, np.full((8, 10), 3.0))


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ({}, {"fsdp": 8}),
        ({"tensor": 2}, {"fsdp": 4, "tensor": 2}),
        ({"data": 8}, {"data": 8}),
        ({"data": -1, "fsdp": 2, "tensor": 2}, {"data": 2, "fsdp": 2, "tensor": 2}),
        ({"data": 2, "fsdp": 1, "context": -1}, {"data": 2, "context": 4}),
    ],
)
def test_minus_one_is_all_devices_that_the_other_axes_leave(sizes, shape):
    mesh = Mesh(**sizes).make()
    assert dict(mesh.shape) == {axis: shape.get(axis, 1) for axis in AXES}
    assert set(mesh.axis_types) == {AxisType.Explicit}


@pytest.mark.parametrize(
    ("sizes", "shown"),
    [
        ({"tensor": 3}, "fsdp=-1, tensor=3"),
        ({"fsdp": 4}, "fsdp=4"),
        ({"fsdp": 8, "tensor": 2}, "fsdp=8, tensor=2"),
        ({"fsdp": 1}, "data=1"),
        ({"data": -1, "fsdp": -1}, "data=-1, fsdp=-1"),
        ({"fsdp": -1, "tensor": 16}, "fsdp=-1, tensor=16"),
    ],
)
def test_a_mesh_that_does_not_divide_the_devices_names_its_sizes_and_their_number(sizes, shown):
    with pytest.raises(
        ValueError, match=rf"mesh \({shown}\) does not divide 8 devices; set the sizes so"
    ):
        Mesh(**sizes).make()


@pytest.mark.parametrize("size", [0, -2])
def test_a_size_that_is_no_number_of_devices_is_refused(size):
    with pytest.raises(ValidationError, match="must be a positive number of devices, or -1"):
        Mesh(tensor=size)


def test_a_parameter_that_does_not_divide_is_named_with_letter_axis_and_both_sizes():
    shapes = {
        "embed_VD": (41, 20),
        "blocks.attention.wq_NDHA": (3, 16, 5, 6),
        "norm.scale_D": (18,),
        "w_up_DF": (20, 10),
    }
    assert check_sizes(shapes, make_mesh(fsdp=4, tensor=2)) == [
        "mesh tensor=2 does not divide V=41 (vocabulary entry) of embed_VD; change the mesh or the size",
        "mesh tensor=2 does not divide H=5 (query head) of blocks.attention.wq_NDHA; change the mesh or the size",
        "mesh fsdp=4 does not divide D=18 (model width) of norm.scale_D; change the mesh or the size",
    ]
    assert check_sizes(shapes, under({})) == []


def test_a_layout_bound_to_a_mesh_needs_no_mesh_around_it():
    mesh = make_mesh(fsdp=4, tensor=2)
    assert named(mesh, "DF", at_rest=True).spec == PartitionSpec("fsdp", "tensor")
    assert named(mesh, "DF").spec == PartitionSpec(None, "tensor")


def test_shapes_of_what_does_not_divide_can_be_asked_for_without_layouts():
    with jax.set_mesh(make_mesh(fsdp=4, tensor=2)):
        with pytest.raises(ValueError, match="does not evenly divide"):
            jax.eval_shape(lambda: shard(jnp.zeros((6, 3)), "DF", at_rest=True))
        with undivided():
            assert jax.eval_shape(lambda: shard(jnp.zeros((6, 3)), "DF", at_rest=True)).shape == (
                6,
                3,
            )
        assert spec("DF", at_rest=True) == PartitionSpec("fsdp", "tensor")
