"""Rows divided over devices: the balanced order, and both ways to bring keys to queries, against the plain
form on one device.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.kernels import context, loops, plain
from model.kernels.loops import LOOPS
from model.sharding import named, shard
from tests.examples import quick_jit, under
from tests.model.kernel_cases import SETTINGS, case, relative_errors

MESHES = {
    "context": {"context": 8},
    "context and tensor": {"context": 4, "tensor": 2},
    "data and context": {"data": 2, "context": 4},
    "three axes": {"data": 2, "context": 2, "tensor": 2},
}
STRATEGIES = {"gather": context.gather, "ring": context.ring}
ALL = [
    (strategy, mesh, setting) for strategy in STRATEGIES for mesh in MESHES for setting in SETTINGS
]
SAMPLE = [
    ("gather", "context and tensor", "window"),
    ("gather", "three axes", "soft cap"),
    ("ring", "context and tensor", "causal"),
    ("ring", "three axes", "window"),
]


def equals_plain(strategy, mesh, setting, **sizes):
    attend = partial(STRATEGIES[strategy], kernel=LOOPS)
    assert max(relative_errors(attend, case(**sizes), SETTINGS[setting], MESHES[mesh])) < 1e-5


@pytest.mark.parametrize(("strategy", "mesh", "setting"), SAMPLE)
def test_divided_rows_compute_what_plain_does(strategy, mesh, setting):
    equals_plain(strategy, mesh, setting)


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "mesh", "setting"), [one for one in ALL if one not in SAMPLE])
def test_all_divided_rows_compute_what_plain_does(strategy, mesh, setting):
    equals_plain(strategy, mesh, setting)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_rows_that_cannot_be_balanced_compute_what_plain_does(strategy):
    equals_plain(strategy, "context and tensor", "window", L=36)


def test_plain_itself_takes_divided_and_balanced_rows():
    assert (
        max(
            relative_errors(
                plain.attend, case(L=16), SETTINGS["causal"], MESHES["context and tensor"]
            )
        )
        < 1e-5
    )


@pytest.mark.parametrize(("letters", "L"), [("BL", 24), ("BlD", 24), ("BlD", 32), ("BLD", 32)])
def test_the_balanced_order_pairs_early_and_late_half_chunks(letters, L):
    x = np.broadcast_to(np.arange(L, dtype=np.int32)[None, :, None], (2, L, 3))[
        ..., : 1 if letters == "BL" else 3
    ].squeeze()
    mesh = under({"context": 4, "tensor": 2})
    with jax.set_mesh(mesh):
        placed = jax.device_put(x.reshape((2, L, 3)[: len(letters)]), named(mesh, letters, x.shape))
        there = quick_jit(lambda x: context.balance(x, letters))(placed)
        back = quick_jit(lambda x: context.unbalance(x, letters))(there)
    halves = x.reshape(2, 8, L // 8, *x.shape[2:])[:, [0, 7, 1, 6, 2, 5, 3, 4]].reshape(x.shape)
    assert np.array_equal(there, halves) and np.array_equal(back, x)


def test_rows_that_do_not_divide_into_half_chunks_stay():
    mesh = under({"context": 4, "tensor": 2})
    with jax.set_mesh(mesh):
        x = shard(jnp.arange(20)[None], "BL")
        assert (
            not context.is_balanced(20) and not context.is_balanced(9) and context.is_balanced(24)
        )
        assert np.array_equal(context.balance(x, "BL"), x)
    with jax.set_mesh(under({})):
        assert not context.is_balanced(24)


@pytest.mark.parametrize("n_devices", [2, 4])
def test_every_device_visits_as_many_blocks(n_devices, monkeypatch):
    monkeypatch.setattr(loops, "BLOCK", 4)
    half, L = 8, 16 * n_devices

    def row(starts):
        positions_BL = jnp.concatenate(
            [start + jnp.arange(L if len(starts) == 1 else half) for start in starts]
        )[None]
        return loops.Row(
            positions_BL, jnp.ones_like(positions_BL), tuple(jnp.int32(start) for start in starts)
        )

    def visits(q_row, k_row):
        total = 0
        for start in q_row.starts:
            for first in range(int(start), int(start) + half, 4):
                block = first + jnp.arange(4)[None]
                total += sum(
                    int(end - begin)
                    for _, _, begin, end in loops.ranges_seen(block, jnp.int32(first), k_row, None)
                )
        return total

    held = [row((c * half, (2 * n_devices - 1 - c) * half)) for c in range(n_devices)]
    assert len({visits(mine, row((0,))) for mine in held}) == 1
    for step in range(1, n_devices):  # of the ring; at step 0 each device has its own keys
        assert len({visits(held[c], held[(c - step) % n_devices]) for c in range(n_devices)}) == 1


def test_the_ring_sends_keys_and_never_gathers_them():
    mesh, inputs = under({"context": 8}), case(L=32)

    def loss(q, k, v, positions, segments):
        return jnp.sum(
            context.ring(q, k, v, positions, segments, SETTINGS["causal"], kernel=LOOPS) ** 2
        )

    with jax.set_mesh(mesh):
        letters = ("BLHA", "BLKA", "BLKA", "BL", "BL")
        arrays = [
            jax.device_put(x, named(mesh, name, x.shape))
            for x, name in zip(inputs, letters, strict=False)
        ]
        text = quick_jit(jax.grad(loss, (0, 1, 2))).lower(*arrays).as_text()
    assert "collective_permute" in text and "all_gather" not in text
