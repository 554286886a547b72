"""Rows, queries, keys and values that the tests of kernels share, and how a kernel is compared with the
plain form.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from model.kernels import plain
from model.kernels.attend import Maths
from model.kernels.context import balance, unbalance
from model.sharding import named
from tests.examples import ONE_DEVICE, quick_jit, under

SETTINGS = {
    "causal": Maths(scale=0.4, window=None, soft_cap=None),
    "window": Maths(scale=0.4, window=7, soft_cap=None),
    "soft cap": Maths(scale=0.9, window=None, soft_cap=2.0),
}


class Case(NamedTuple):
    """Inputs of attention, and the gradient of its output: 0 on padding, whose output nobody reads."""

    q_BLHA: np.ndarray
    k_BLKA: np.ndarray
    v_BLKA: np.ndarray
    positions_BL: np.ndarray
    segments_BL: np.ndarray
    grad_BLHA: np.ndarray


def case(
    *,
    B: int = 2,
    L: int = 48,
    H: int = 4,
    K: int = 2,
    A: int = 6,
    A2: int = 5,
    dtype: Any = "float32",
) -> Case:
    """Packed rows of documents of different lengths, the last of each row followed by padding, except in
    row 0: one document.
    """
    rng = np.random.default_rng(B * L + H)
    positions_BL, segments_BL = np.zeros((2, B, L), np.int32)
    for b in range(B):
        cuts = (
            [0, L]
            if b == 0
            else sorted({0, L - L // 6, *rng.integers(1, L - L // 6, 2 + b).tolist()})
        )
        for segment, (start, stop) in enumerate(zip(cuts, cuts[1:], strict=False), 1):
            positions_BL[b, start:stop], segments_BL[b, start:stop] = range(stop - start), segment
    q, k, v, grad = (
        rng.normal(0, 1, (B, L, *shape)).astype(np.float32)
        for shape in ((H, A), (K, A), (K, A2), (H, A2))
    )
    grad *= segments_BL[..., None, None] > 0
    return Case(
        *(jnp.asarray(x, dtype) for x in (q, k, v)),
        positions_BL,
        segments_BL,
        jnp.asarray(grad, dtype),
    )


def output_and_gradients(
    attend: Callable, inputs: Case, maths: Maths, mesh: dict[str, int]
) -> list[np.ndarray]:
    """Output on what is no padding, and the gradients of queries, keys and values, all in the order of the
    case.
    """
    at = under(mesh)

    def run(q: Any, k: Any, v: Any, positions: Any, segments: Any, grad: Any) -> tuple:
        q, k, v, grad = (
            balance(x, letters)
            for x, letters in ((q, "BLHA"), (k, "BLKA"), (v, "BLKA"), (grad, "BLHA"))
        )
        positions, segments = balance(positions, "BL"), balance(segments, "BL")
        o, pull = jax.vjp(lambda q, k, v: attend(q, k, v, positions, segments, maths), q, k, v)
        found = zip((o, *pull(grad)), ("BLHA", "BLHA", "BLKA", "BLKA"), strict=True)
        return tuple(unbalance(x, letters) for x, letters in found)

    letters = ("BLHA", "BLKA", "BLKA", "BL", "BL", "BLHA")
    with jax.set_mesh(at):
        arrays = [
            jax.device_put(x, named(at, name, x.shape))
            for x, name in zip(inputs, letters, strict=True)
        ]
        found = [np.asarray(x, np.float32) for x in quick_jit(run)(*arrays)]
    found[0] = found[0] * (np.asarray(inputs.segments_BL) > 0)[..., None, None]
    return found


def relative_errors(
    attend: Callable, inputs: Case, maths: Maths, mesh: dict[str, int] = ONE_DEVICE
) -> list[float]:
    """‖x - plain‖ / ‖plain‖ of output and gradients; plain runs on one device, in float32."""
    exact = Case(
        *(np.asarray(x, np.float32) if np.asarray(x).dtype != np.int32 else x for x in inputs)
    )
    wanted = output_and_gradients(plain.attend, exact, maths, ONE_DEVICE)
    found = output_and_gradients(attend, inputs, maths, mesh)
    return [
        float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in zip(found, wanted, strict=True)
    ]
