"""What is read from optimized HLO text, on programs that were compiled for the CPU here and for a TPU that
is not: loops are multiplied out, every collective is counted once with its bytes and axes, products count
the same however they are written.
"""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from launch.planning.collectives import Transfer, axes_between, groups_of, transfers_of
from launch.planning.hlo import parse, parse_instruction
from launch.planning.walk import walk
from launch.planning.work import work_of
from model.sharding import AXES
from tests.launch.absent import absent_mesh, mesh_here, shape_on, text_of

SIZES = {"data": 2, "fsdp": 2, "tensor": 2}
MESH = {**dict.fromkeys(AXES, 1), **SIZES}
PLATFORMS = {"cpu": lambda: mesh_here(**SIZES), "tpu": lambda: absent_mesh("v5p:2x2x2", **SIZES)}
ONE_LOOP, OUTER_LOOP = 5, 3


@pytest.fixture(params=PLATFORMS, scope="module")
def mesh(request):
    return PLATFORMS[request.param]()


def looped(one_turn, n):
    """A loop of n turns."""
    return lambda x: jax.lax.scan(lambda x, _: (one_turn(x), None), x, None, length=n)[0]


def test_a_product_in_nested_loops_counts_as_often_as_the_loops_turn(mesh):
    product = looped(looped(lambda x: jnp.tanh(x @ x), ONE_LOOP), OUTER_LOOP)
    text = text_of(
        jax.shard_map(product, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False),
        mesh,
        shape_on(mesh, (256, 256)),
    )
    assert work_of(text, MESH).matmul_flops == ONE_LOOP * OUTER_LOOP * 2 * 256**3


def test_a_loop_of_unknown_length_is_said_and_counts_once(mesh):
    def until_small(x):
        return jax.lax.while_loop(lambda x: jnp.sum(x) > 1, lambda x: jnp.tanh(x @ x), x)

    text = text_of(
        jax.shard_map(until_small, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False),
        mesh,
        shape_on(mesh, (128, 128)),
    )
    work = work_of(text, MESH)
    assert work.matmul_flops == 2 * 128**3
    assert any("loop" in note for note in work.notes)


def collective(name):
    """[64, 128] a device in and out, by one collective a turn and what undoes it without any."""
    around = [(i, 1 - i) for i in range(2)]
    return {
        "all-gather": lambda x: jnp.tanh(jax.lax.all_gather(x, "fsdp", tiled=True))[:64],
        "reduce-scatter": lambda x: jax.lax.psum_scatter(
            jnp.concatenate([x, jnp.tanh(x)]), "tensor", tiled=True
        ),
        "all-reduce": lambda x: jnp.tanh(jax.lax.psum(x, ("data", "tensor"))),
        "collective-permute": lambda x: jnp.tanh(jax.lax.ppermute(x, "data", around)),
        "all-to-all": lambda x: jnp.tanh(
            jax.lax.all_to_all(x.reshape(2, 32, 128), "fsdp", 0, 0)
        ).reshape(64, 128),
    }[name]


BLOCK = 64 * 128 * 4  # bytes
EXPECTED = {  # axes, chips, whole bytes, bytes sent
    "all-gather": (("fsdp",), 2, 2 * BLOCK, BLOCK),
    "reduce-scatter": (("tensor",), 2, 2 * BLOCK, BLOCK),
    "all-reduce": (("data", "tensor"), 4, BLOCK, 1.5 * BLOCK),
    "collective-permute": (("data",), 2, BLOCK, BLOCK),
    "all-to-all": (("fsdp",), 2, BLOCK, BLOCK / 2),
}


@pytest.mark.parametrize("kind", EXPECTED)
def test_a_collective_in_a_loop_is_counted_with_its_axes_and_bytes(kind, mesh):
    block = P(("data", "fsdp", "tensor"))
    program = jax.shard_map(
        looped(collective(kind), ONE_LOOP),
        mesh=mesh,
        in_specs=block,
        out_specs=block,
        check_vma=False,
    )
    text = text_of(program, mesh, shape_on(mesh, (512, 128), ("data", "fsdp", "tensor")))
    axes, n, whole, sent = EXPECTED[kind]
    assert work_of(text, MESH).transfers == (
        Transfer(kind, axes, n, whole * ONE_LOOP, sent * ONE_LOOP, ONE_LOOP),
    )


def test_a_gradient_over_divided_rows_is_summed_once_over_their_axis(mesh):
    """What the partitioner adds by itself, and not only what a program writes down."""

    def gradient(w, x):
        return jax.grad(lambda w: jnp.sum(jnp.tanh(x @ w)))(w)

    text = text_of(gradient, mesh, shape_on(mesh, (128, 64)), shape_on(mesh, (32, 128), "data"))
    transfers = work_of(text, MESH).transfers
    assert {(each.kind, each.axes) for each in transfers} == {("all-reduce", ("data",))}
    assert sum(each.n_bytes for each in transfers) == 128 * 64 * 4


GROUPS = (
    [(0, 1), (2, 3), (4, 5), (6, 7)],
    [(0, 2), (1, 3), (4, 6), (5, 7)],
    [(0, 4), (1, 5), (2, 6), (3, 7)],
)
SPELLINGS = [
    (
        "tensor",
        GROUPS[0],
        [
            "{{0,1},{2,3},{4,5},{6,7}}",
            "[4,2]<=[8]",
            "mesh['data'=2,'fsdp'=2,'tensor'=2] {'tensor'}",
            "mesh['a'=8] {'a':(4)2}",
        ],
    ),
    (
        "fsdp",
        GROUPS[1],
        [
            "{{0,2},{1,3},{4,6},{5,7}}",
            "[4,2]<=[2,2,2]T(0,2,1)",
            "mesh['a'=2,'b'=2,'c'=2] {'b'}",
            "mesh['a'=8] {'a':(2)2}",
        ],
    ),
    (
        "data",
        GROUPS[2],
        [
            "{{0,4},{1,5},{2,6},{3,7}}",
            "[4,2]<=[2,4]T(1,0)",
            "mesh['a'=2,'b'=4] {'a'}",
            "mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}",
        ],
    ),
]


@pytest.mark.parametrize(
    ("axis", "groups", "spellings"), SPELLINGS, ids=[axis for axis, _, _ in SPELLINGS]
)
def test_all_spellings_of_groups_mean_the_same_chips(axis, groups, spellings):
    for spelling in spellings:
        line = f"  %g.1 = f32[8]{{0}} all-gather(%x), channel_id=1, replica_groups={spelling}, dimensions={{0}}"
        found = groups_of(parse_instruction(line), 8)
        assert sorted(found) == groups, spelling
        assert axes_between(found, MESH) == (axis,)


def test_no_groups_mean_all_chips():
    line = "  %r.1 = f32[8]{0} all-reduce(%x), replica_groups={}, to_apply=%sum"
    assert groups_of(parse_instruction(line), 8) == [tuple(range(8))]


@pytest.mark.parametrize(
    ("equation", "left", "right", "flops"),
    [
        ("BLD,DHA->BLHA", (2, 64, 128), (128, 4, 32), 2 * 2 * 64 * 128 * 4 * 32),
        ("BLHA,HAD->BLD", (2, 64, 4, 32), (4, 32, 128), 2 * 2 * 64 * 128 * 4 * 32),
        ("BLD,BLHA->DHA", (2, 64, 128), (2, 64, 4, 32), 2 * 2 * 64 * 128 * 4 * 32),
        ("BLHA,BTHA->BHLT", (2, 64, 4, 32), (2, 64, 4, 32), 2 * 2 * 4 * 64 * 64 * 32),
    ],
)
def test_a_product_costs_the_same_as_a_dot_and_as_a_tpus_convolution(
    equation, left, right, flops, mesh
):
    shapes = shape_on(mesh, left), shape_on(mesh, right)
    assert (
        work_of(text_of(lambda x, y: jnp.einsum(equation, x, y), mesh, *shapes), MESH).matmul_flops
        == flops
    )


def test_a_loop_over_stacked_weights_reads_each_of_them_once():
    mesh, N, D = absent_mesh("v5p:2x2x1", fsdp=4), 16, 1024

    def through(x, w_NDF):
        return jax.lax.scan(lambda x, w_DF: (jnp.tanh(x @ w_DF), None), x, w_NDF)[0]

    text = text_of(through, mesh, shape_on(mesh, (8, D)), shape_on(mesh, (N, D, D)))
    stack = N * D * D * 4
    assert (
        stack <= work_of(text, {**dict.fromkeys(AXES, 1), "fsdp": 4}).hbm_bytes <= 4 * stack
    )  # N times would be 16


def test_a_collective_beside_products_stands_in_several_fusions_and_counts_once():
    text = """HloModule m

%begin (p: f32[64]) -> f32[128] {
  %p = f32[64]{0} parameter(0)
  ROOT %g = f32[128]{0} all-gather(%p), channel_id=7, replica_groups=[4,2]<=[8], dimensions={0}
}

%end (q: f32[64]) -> f32[128] {
  %q = f32[64]{0} parameter(0)
  ROOT %h = f32[128]{0} all-gather(%q), channel_id=7, replica_groups=[4,2]<=[8], dimensions={0}
}

ENTRY %main (x: f32[64]) -> f32[128] {
  %x = f32[64]{0} parameter(0)
  %a = f32[128]{0} fusion(%x), kind=kCustom, calls=%begin
  ROOT %b = f32[128]{0} fusion(%x), kind=kCustom, calls=%end
}
"""
    (transfer,) = transfers_of(walk(parse(text)), MESH)
    assert (transfer.axes, transfer.n_bytes, transfer.n_calls) == (("tensor",), 512, 1)


def test_what_a_tpu_sends_between_slices_is_a_collective_over_them():
    """Rows lie on data, whose outer part are two slices of four chips: the gradient is summed inside, then
    between.
    """
    mesh = absent_mesh("v5p:2x2x1", 2, data=8)

    def gradient(w, x):
        return jax.grad(lambda w: jnp.sum(jnp.tanh(x @ w)))(w)

    text = text_of(gradient, mesh, shape_on(mesh, (256, 512)), shape_on(mesh, (64, 256), "data"))
    transfers = work_of(text, {**dict.fromkeys(AXES, 1), "data": 8}).transfers
    assert {each.axes for each in transfers} == {("data",)}
    (between,) = [each for each in transfers if each.n_chips == 2]
    assert (
        between.kind == "all-reduce" and between.n_bytes == 256 * 512 * 4 / 4
    )  # each chip its own part
    assert all(each.n_chips in (2, 4) for each in transfers)


def test_a_copy_to_the_hosts_memory_is_counted_and_is_none_of_hbm_to_chip():
    text = """HloModule m

ENTRY %main (x: f32[64]) -> f32[64] {
  %x = f32[64]{0} parameter(0)
  %c.1 = (f32[64]{0:S(5)}, f32[64]{0}, u32[]{:S(2)}) copy-start(%x)
  ROOT %d = f32[64]{0:S(5)} copy-done(%c.1)
}
"""
    assert work_of(text, MESH).host_bytes == 256


def test_a_text_without_a_program_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match="no ENTRY computation; give the optimized HLO"):
        parse("nothing")
