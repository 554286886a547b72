"""Copies that are not equal are found, and the device named; a computation that does not repeat itself is
found.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from model.mesh import make_mesh
from trainer.cluster.replicas import check, make_replay

SIZES = {"w_DF": (8, 6), "narrow_DF": (8, 6), "scale_D": (8,), "count": ()}
TYPES = {"w_DF": np.float32, "narrow_DF": jnp.bfloat16, "scale_D": np.int8, "count": np.int32}


def tree_on(mesh: Mesh, flip: tuple[str, int, int, int] | None = None) -> dict[str, jax.Array]:
    """Leaves laid out over `fsdp` where they have a D; `flip` = (leaf, device, element, bit) changes one
    copy of a part alone.
    """
    rng = np.random.default_rng(0)

    def one(name: str) -> jax.Array:
        whole = np.asarray(rng.integers(-100, 100, SIZES[name])).astype(TYPES[name])
        sharding = NamedSharding(mesh, PartitionSpec("fsdp") if whole.ndim else PartitionSpec())
        parts = []
        for device, index in sharding.addressable_devices_indices_map(whole.shape).items():
            part = np.array(whole[index])
            if flip and (name, device.id) == flip[:2]:
                part.reshape(-1).view(np.uint8)[flip[2]] ^= 1 << flip[3]
            parts.append(jax.device_put(part, device))
        return jax.make_array_from_single_device_arrays(whole.shape, sharding, parts)

    return {name: one(name) for name in SIZES}


def test_keys_flags_and_small_types_are_compared_too():
    mesh = mesh_of(2, 1)
    types = {"a": jnp.bool_, "b": jnp.int4, "c": jnp.float4_e2m1fn, "d": jnp.float8_e4m3fn}
    tree = {name: jnp.ones(3, kind) for name, kind in types.items()} | {"key": jax.random.key(1)}
    with jax.set_mesh(mesh):
        assert check(jax.device_put(tree, NamedSharding(mesh, PartitionSpec())), mesh) == []


def mesh_of(data: int, fsdp: int) -> Mesh:
    return make_mesh(jax.devices()[: data * fsdp], data=data, fsdp=fsdp)


def test_equal_copies_are_silent():
    for mesh in (mesh_of(4, 1), mesh_of(2, 2), mesh_of(1, 4)):
        with jax.set_mesh(mesh):
            assert check(tree_on(mesh), mesh) == []


def test_one_flipped_bit_in_one_of_four_copies_is_found_and_its_device_named():
    mesh, rng = mesh_of(4, 1), np.random.default_rng(1)
    for _ in range(20):
        name = list(SIZES)[rng.integers(len(SIZES))]
        n_bytes = max(1, int(np.prod(SIZES[name]))) * np.dtype(TYPES[name]).itemsize
        device, at, bit = int(rng.integers(4)), int(rng.integers(n_bytes)), int(rng.integers(8))
        with jax.set_mesh(mesh):
            (said,) = check(tree_on(mesh, (name, device, at, bit)), mesh)
        assert said.startswith(
            f"{name} differs on device {device} of process 0 from its 3 other copies"
        ), (
            said,
            at,
            bit,
        )


def test_of_two_copies_of_a_part_both_are_named():
    mesh = mesh_of(2, 2)
    (twins,) = (
        [d.id for d in pair] for pair in mesh.devices.reshape(2, 2).T if 3 in [d.id for d in pair]
    )
    with jax.set_mesh(mesh):
        (said,) = check({"params": tree_on(mesh, ("w_DF", 3, 5, 6))}, mesh)
    wanted = ", ".join(f"device {i} of process 0" for i in twins)
    assert said.startswith(
        f"the copies of params.w_DF on {wanted} differ, and none is in the majority"
    )


def test_a_part_without_a_copy_cannot_be_checked():
    mesh = mesh_of(1, 4)
    with jax.set_mesh(mesh):
        assert check({"w_DF": tree_on(mesh, ("w_DF", 2, 0, 0))["w_DF"]}, mesh) == []


@pytest.mark.parametrize(
    ("faults", "said"),
    [
        ((), []),
        ((2,), ["the gradient of w_DF came out in two ways on device"]),
        ((1, 2, 3), ["a gradient computed three times"]),
    ],
    ids=["sound", "one wrong", "never the same"],
)
def test_a_gradient_that_does_not_repeat_itself_is_found(faults, said):
    mesh, calls = mesh_of(1, 2), []

    def disturbance() -> np.ndarray:
        calls.append(None)
        return np.float32(len(calls) if len(calls) in faults else 0)

    def gradient(state, batch):
        wrong = jax.pure_callback(disturbance, jax.ShapeDtypeStruct((), jnp.float32))
        return {
            "w_DF": state["w_DF"] * batch.at[0].add(wrong)[:, None],
            "scale_D": state["scale_D"],
        }

    with jax.set_mesh(mesh):
        state = tree_on(mesh)
        batch = jax.device_put(jnp.ones(8), NamedSharding(mesh, PartitionSpec()))
        found = make_replay(gradient, mesh)(state, batch)
    assert len(found) == len(said) and all(
        a.startswith(b) for a, b in zip(found, said, strict=True)
    ), found
