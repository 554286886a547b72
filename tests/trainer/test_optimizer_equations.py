"""Each optimizer is its paper's equations, or the library's own on matrices that nobody divided."""

from typing import Any

import jax
import numpy as np
import optax
import pytest

from model.api import leaf_name
from tests.examples import ONE_DEVICE
from tests.trainer.optimizer_examples import CONSTANT, PARAMS, normal, run
from trainer.optimizer import Optimizer
from trainer.optimizers.adafactor import Adafactor
from trainer.optimizers.adamw import AdamW
from trainer.optimizers.lion import Lion
from trainer.optimizers.muon import Muon
from trainer.optimizers.soap import SOAP

PLAIN = {"peak_lr": 0.1, "schedule": CONSTANT, "weight_decay": 0.0, "clip_norm": None}
GRADIENTS = [jax.tree.map(lambda x: normal(*x.shape) * scale, PARAMS) for scale in (0.01, 1.0, 3.0)]  # noqa: B023
MATRICES = ("embed_VD", "w_DF", "blocks.wq_NDHA", "blocks.wo_NHAD")
SIDES = {
    "embed_VD": (24, 16),
    "w_DF": (16, 256),
    "blocks.wq_NDHA": (16, 8),
    "blocks.wo_NHAD": (8, 16),
}


def singles(tree: Any) -> dict[str, list[np.ndarray]]:
    """Name -> its matrices, heads and their widths as one side, or its vectors: a layer each."""
    found = {}
    for path, x in jax.tree.leaves_with_path(tree):
        name = leaf_name(path)
        layers = np.asarray(x) if name.startswith("blocks") else np.asarray(x)[None]
        found[name] = [layer.reshape(SIDES.get(name, -1)) for layer in layers]
    return found


def expected_of(tx: optax.GradientTransformation) -> dict[str, list[np.ndarray]]:
    """What a library's optimizer makes of every matrix and vector alone."""
    params = singles(PARAMS)
    state = tx.init(params)
    for gradient in GRADIENTS:
        updates, state = tx.update(singles(gradient), state, params)
        params = optax.apply_updates(params, updates)
    return params


def compare(
    updated: Any, expected: dict[str, list[np.ndarray]], *, names: Any = None, rtol: float = 1e-4
) -> None:
    for name, found in singles(updated).items():
        if names is None or name in names:
            np.testing.assert_allclose(
                np.stack(found), np.stack(expected[name]), rtol=rtol, atol=rtol / 10, err_msg=name
            )


def test_adamw_is_its_equations():
    """Loshchilov and Hutter 2019, algorithm 2, after clipping by the global norm."""
    optimizer = Optimizer(
        rule=AdamW(b1=0.8, b2=0.9, eps=1e-6),
        peak_lr=0.1,
        schedule=CONSTANT,
        weight_decay=0.5,
        clip_norm=2.0,
    )
    updated, _ = run(optimizer, GRADIENTS)
    decayed = [leaf_name(path) in MATRICES for path, _ in jax.tree.leaves_with_path(PARAMS)]
    m, v = ([np.zeros(x.shape) for x in jax.tree.leaves(PARAMS)] for _ in "mv")
    expected = [x.astype(np.float64) for x in jax.tree.leaves(PARAMS)]
    for t, gradient in enumerate(map(jax.tree.leaves, GRADIENTS), 1):
        norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradient))
        for i, g in enumerate(gradient):
            g = g * min(1, 2.0 / norm)
            m[i], v[i] = 0.8 * m[i] + 0.2 * g, 0.9 * v[i] + 0.1 * g**2
            direction = m[i] / (1 - 0.8**t) / (np.sqrt(v[i] / (1 - 0.9**t)) + 1e-6)
            expected[i] = expected[i] - 0.1 * (direction + 0.5 * decayed[i] * expected[i])
    for x, y in zip(jax.tree.leaves(updated), expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


def test_lion_is_its_program():
    """Chen et al. 2023, program 1."""
    updated, _ = run(
        Optimizer(rule=Lion(b1=0.8, b2=0.9), **{**PLAIN, "weight_decay": 0.5}), GRADIENTS
    )
    expected = {
        name: [x.astype(np.float64) for x in found] for name, found in singles(PARAMS).items()
    }
    means = {name: [np.zeros(x.shape) for x in found] for name, found in expected.items()}
    for gradient in map(singles, GRADIENTS):
        for name, found in expected.items():
            for i, g in enumerate(gradient[name]):
                direction = np.sign(0.8 * means[name][i] + 0.2 * g)
                found[i] = found[i] - 0.1 * (direction + 0.5 * (name in MATRICES) * found[i])
                means[name][i] = 0.9 * means[name][i] + 0.1 * g
    compare(updated, expected)


@pytest.mark.parametrize("b1", [None, 0.9])
def test_adafactor_is_the_librarys(b1):
    optimizer = Optimizer(rule=Adafactor(b1=b1, decay_power=0.7, clip_rms=0.5), **PLAIN)
    theirs = optax.adafactor(
        0.1, min_dim_size_to_factor=1, decay_rate=0.7, clipping_threshold=0.5, momentum=b1
    )
    compare(run(optimizer, GRADIENTS)[0], expected_of(theirs))


def test_muon_is_the_librarys_on_hidden_matrices_and_adamw_elsewhere():
    updated, _ = run(Optimizer(rule=Muon(momentum=0.9, rms=0.3, b1=0.8), **PLAIN), GRADIENTS)
    hidden = set(MATRICES) - {"embed_VD"}
    compare(
        updated,
        expected_of(optax.contrib.muon(0.1, beta=0.9, consistent_rms=0.3)),
        names=hidden,
        rtol=1e-3,
    )
    compare(
        updated,
        expected_of(optax.adam(0.1, 0.8, 0.95)),
        names=set(SIDES) - hidden | {"norm.scale_D", "blocks.bq_NHA"},
    )


@pytest.mark.parametrize("products", ["float32", "bfloat16"])
def test_muons_steps_are_orthogonal_and_as_long_as_its_rms_says(products):
    rule = Muon(rms=0.3, products=products)
    updated, _ = run(Optimizer(rule=rule, **PLAIN), GRADIENTS[:1])
    for name in sorted(set(MATRICES) - {"embed_VD"}):
        for before, after in zip(singles(PARAMS)[name], singles(updated)[name], strict=True):
            values = np.linalg.svd(
                (before - after) / (0.1 * 0.3 * max(before.shape) ** 0.5), compute_uv=False
            )
            assert 0.5 < values.min() and values.max() < 1.3


@pytest.mark.parametrize("sizes", [ONE_DEVICE, {"fsdp": 4, "tensor": 2}], ids=str)
def test_muons_steps_in_bfloat16_are_those_in_float32_but_for_rounding(sizes):
    exact, _ = run(Optimizer(rule=Muon(), **PLAIN), GRADIENTS)
    rule = Muon(products="bfloat16")
    rounded, _ = run(Optimizer(rule=rule, **PLAIN), GRADIENTS, sizes=sizes)
    before, exact, rounded = singles(PARAMS), singles(exact), singles(rounded)
    for name in before:
        step = np.stack(exact[name]) - np.stack(before[name])
        error = np.linalg.norm(np.stack(rounded[name]) - np.stack(exact[name]))
        relative = error / np.linalg.norm(step)
        if name in MATRICES and name != "embed_VD":
            # more than float32 could err, so the products are in bfloat16
            assert 1e-4 < relative < 0.05, name
        else:
            assert relative < 1e-5, name


def test_soap_is_its_algorithm():
    """Vyas et al. 2024, algorithms 3 and 4; bases are found before steps 1, 3 and 5, the first from the
    identity.
    """
    b1, b2, eps, every = 0.8, 0.9, 1e-3, 2
    # a side of 40 is not rotated; of a rotated one no direction may be without gradient, or rounding would
    # choose its basis
    params = {"w_DF": normal(6, 6), "w_up_NDF": normal(2, 5, 40)}
    gradients = [jax.tree.map(lambda x: normal(*x.shape), params) for _ in range(5)]
    updated, _ = run(
        Optimizer(rule=SOAP(b1=b1, b2=b2, eps=eps, every=every, max_side=8), **PLAIN),
        gradients,
        params=params,
    )
    expected = soap(params["w_DF"], [g["w_DF"] for g in gradients], b1, b2, eps, every)
    np.testing.assert_allclose(updated["w_DF"], expected, atol=1e-3)
    for i in range(2):
        expected = soap(
            params["w_up_NDF"][i], [g["w_up_NDF"][i] for g in gradients], b1, b2, eps, every
        )
        np.testing.assert_allclose(updated["w_up_NDF"][i], expected, atol=1e-3)


def soap(
    x: np.ndarray, gradients: list[np.ndarray], b1: float, b2: float, eps: float, every: int
) -> np.ndarray:
    """One matrix after some steps with a rate of 0.1, in float64; a side longer than 8 keeps its own
    basis.
    """
    x, bases = x.astype(np.float64), [np.eye(n) for n in x.shape]
    m, v, means = np.zeros_like(x), np.zeros_like(x), [np.zeros((n, n)) for n in x.shape]
    for t, gradient in enumerate(gradients, 1):
        g = gradient.astype(np.float64)
        m = b1 * m + (1 - b1) * g
        means = [
            b2 * mean + (1 - b2) * product
            for mean, product in zip(means, (g @ g.T, g.T @ g), strict=True)
        ]
        if (t - 1) % every == 0:
            sizes = [
                np.diag(q.T @ mean @ q) * (len(q) <= 8)
                for q, mean in zip(bases, means, strict=True)
            ]
            orders = [np.argsort(-size, kind="stable") for size in sizes]
            v = v[np.ix_(*orders)]
            found = [
                np.linalg.qr(mean @ q[:, order])[0]
                for q, mean, order in zip(bases, means, orders, strict=True)
            ]
            bases = [new if len(new) <= 8 else np.eye(len(new)) for new in found]
        left, right = bases
        v = b2 * v + (1 - b2) * (left.T @ g @ right) ** 2
        direction = left.T @ (m / (1 - b1**t)) @ right / (np.sqrt(v / (1 - b2**t)) + eps)
        x = x - 0.1 * left @ direction @ right.T
    return x
