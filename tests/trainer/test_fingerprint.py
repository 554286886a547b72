"""Laws of fingerprints: the same on every mesh, another one after any flipped bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.examples import MESHES, ONE_DEVICE, at_rest_on, under
from trainer.fingerprints import differing, fingerprints

rng = np.random.default_rng(0)
TREE = {
    "w_DF": rng.normal(size=(16, 6)).astype(np.float32),
    "half_ND": rng.normal(size=(3, 8)).astype(jnp.bfloat16),
    "small_DF": rng.integers(-128, 127, (8, 4)).astype(np.int8),
    "mask_D": rng.random(8) < 0.5,
    "count": np.int32(7),
}


def plain(x: np.ndarray) -> list[int]:
    """The sums as the docstring says them, in Python's own numbers."""
    bits = [
        int(n)
        for n in x.reshape(-1).view({1: np.uint8, 2: np.uint16, 4: np.uint32}[x.dtype.itemsize])
    ]
    return [sum(bits) % 2**32, sum(n * (place + 1) for place, n in enumerate(bits)) % 2**32]


@pytest.mark.parametrize("sizes", [ONE_DEVICE, MESHES[0], MESHES[2]], ids=str)
def test_the_fingerprint_of_an_array_is_the_sum_of_its_bits_on_any_mesh(sizes):
    mesh = under(sizes)
    with jax.set_mesh(mesh):
        found = fingerprints({"a": at_rest_on(mesh, TREE), "key": jax.random.key(3)})
    assert {name.removeprefix("a."): sums for name, sums in found.items() if name != "key"} == {
        name: plain(np.atleast_1d(x)) for name, x in TREE.items()
    }
    assert found["key"] == plain(np.asarray(jax.random.key_data(jax.random.key(3))))


def test_every_single_flipped_bit_and_every_swap_changes_the_fingerprint():
    x = TREE["w_DF"]
    before = fingerprints({"x": jnp.asarray(x)})
    for at in range(0, x.size, 7):
        for bit in range(32):
            damaged = x.copy()
            damaged.reshape(-1).view(np.uint32)[at] ^= np.uint32(1 << bit)
            assert differing(before, fingerprints({"x": jnp.asarray(damaged)})) == ["x"], (at, bit)
    assert differing(before, fingerprints({"x": jnp.asarray(x[::-1])})) == ["x"]
    assert differing(before, fingerprints({"x": jnp.asarray(x)})) == [] and differing(
        before, {}
    ) == ["x"]
