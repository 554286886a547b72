"""Products of experts compared with a plain product for each expert, in float32."""

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from launch.bench.device.rows import Check, Row, compared
from model.exits import local
from model.kernels.grouped import grouped_matmul
from model.layers.experts import Axes, Choices, Dispatch, Experts, at_capacity, dropless
from model.mesh import make_mesh

# Of relative errors. A gated layer is three products deep, its gradient six, and each of them rounds.
BOUNDS = {"float32": 1e-4, "bfloat16": 2e-2}
# One device: no axis of the mesh divides experts, their width or the rows.
UNDIVIDED = Axes(experts=(), width=(), length=(), runs=1)


def expert_checks(*, small: bool) -> Iterator[Check]:
    """The grouped product, and whole expert layers with and without a limit on the load of an expert."""
    if small:
        # Only the command is tested, for which one dtype is enough.
        D, F, n_tokens = 16, 24, 64
        dtypes = ["bfloat16"]
    else:
        # Widths of a small model's experts.
        D, F, n_tokens = 1024, 2048, 2048
        dtypes = list(BOUNDS)
    dispatches: dict[str, Dispatch] = {
        "dropless": dropless,
        # 8.0: room for all tokens, so that nothing is dropped.
        "at capacity": functools.partial(at_capacity, factor=8.0),
    }
    for dtype in dtypes:
        run = functools.partial(check_grouped, dtype, D=D, F=F, n_rows=n_tokens)
        yield Check(f"experts, grouped product, {dtype}", run, compares=True)
        for name, dispatch in dispatches.items():
            run = functools.partial(
                check_experts,
                name,
                dispatch,
                dtype,
                D=D,
                F=F,
                n_tokens=n_tokens,
            )
            yield Check(f"experts, {name}, {dtype}", run, compares=True)


def check_grouped(dtype: str, *, D: int, F: int, n_rows: int) -> Row:
    """Sorted rows times the matrix of their group; one group is empty, and groups end within tiles."""
    # An empty group, and ends inside tiles of 128 rows, are where a kernel could go wrong.
    sizes_E = np.array([n_rows // 2 + 3, 0, n_rows // 4 - 1, n_rows // 4 - 2], np.int32)
    group_C = np.repeat(np.arange(4), sizes_E)  # of each row
    rng = np.random.default_rng(0)
    x_CD = rng.normal(0, 1, (n_rows, D))[: len(group_C)]
    # 1/sqrt(D) keeps the outputs at unit scale, so that the bound is relative to 1.
    w_EDF = rng.normal(0, D**-0.5, (4, D, F))

    def plain(x_CD: Array, w_EDF: Array) -> Array:
        groups = [x_CD[group_C == e] @ w_EDF[e] for e in range(4)]
        return jnp.concatenate(groups)

    def ours(x_CD: Array, w_EDF: Array) -> Array:
        return grouped_matmul(x_CD, w_EDF, jnp.asarray(sizes_E))

    arrays = {"x": x_CD, "w": w_EDF}
    return compare(f"experts, grouped product, {dtype}", ours, plain, dtype, arrays)


def check_experts(
    name: str, dispatch: Dispatch, dtype: str, *, D: int, F: int, n_tokens: int
) -> Row:
    """A gated layer of 8 experts, of which each token chooses 2; some tokens are padding."""
    E = 8
    S = 2  # choices of each token
    B = 2
    L = n_tokens // B
    rng = np.random.default_rng(1)
    # `permuted` draws two different experts: a token never chooses one twice.
    experts_MS = [rng.permuted(np.arange(E))[:S] for _ in range(B * L)]
    experts_BLS = np.stack(experts_MS).reshape(B, L, S)
    experts_BLS[:, -L // 8 :] = E  # padding goes to no expert
    weights_BLS = rng.uniform(0.1, 0.9, (B, L, S)).astype(np.float32)
    arrays = {
        "x": rng.normal(0, 1, (B, L, D)),
        "w_gate": rng.normal(0, D**-0.5, (E, D, F)),
        "w_up": rng.normal(0, D**-0.5, (E, D, F)),
        "w_down": rng.normal(0, F**-0.5, (E, F, D)),
    }

    def plain(x_BLD: Array, w_gate_EDF: Array, w_up_EDF: Array, w_down_EFD: Array) -> Array:
        y_BLD = jnp.zeros_like(x_BLD)
        for e in range(E):
            # Every expert computes every token; where it was not chosen its share is 0.
            gate_BLF = jax.nn.silu(x_BLD @ w_gate_EDF[e])
            up_BLF = x_BLD @ w_up_EDF[e]
            out_BLD = (gate_BLF * up_BLF) @ w_down_EFD[e]
            share_BLS = jnp.where(experts_BLS == e, weights_BLS, 0)
            share_BL = jnp.sum(share_BLS, -1)
            y_BLD += share_BL[..., None] * out_BLD
        return y_BLD

    def ours(x_BLD: Array, *w: Array) -> Array:
        choices = Choices(x_BLD, jnp.asarray(experts_BLS), jnp.asarray(weights_BLS))
        experts = Experts(*w, jax.nn.silu)
        # How many choices were dropped has no plain form.
        y_BLD, _ = dispatch(choices, experts, UNDIVIDED)
        return y_BLD

    return compare(f"experts, {name}, {dtype}", ours, plain, dtype, arrays)


def compare(
    check: str,
    ours: Callable[..., Array],
    plain: Callable[..., Array],
    dtype: str,
    arrays: dict[str, np.ndarray],
) -> Row:
    """Output and gradients by every array; `plain` gets the same rounded numbers in float32."""
    # numbers that bfloat16 can hold, so that both sides start from the same ones
    rounded = [np.asarray(jnp.asarray(x, jnp.bfloat16), np.float32) for x in arrays.values()]
    wanted = _output_and_gradients(plain, rounded, "float32")
    got = _output_and_gradients(ours, rounded, dtype)
    names = ["output", *(f"d{name}" for name in arrays)]
    errors = {}
    for name, x, exact in zip(names, got, wanted, strict=True):
        # Relative to the norm: entries near 0 have no relative error of their own.
        error = np.linalg.norm(x - exact) / np.linalg.norm(exact)
        errors[name] = float(error)
    return compared(check, errors, dict.fromkeys(errors, BOUNDS[dtype]))


def _output_and_gradients(
    fn: Callable[..., Array], arrays: list[np.ndarray], dtype: str
) -> list[np.ndarray]:
    mesh = make_mesh(jax.devices()[:1])
    precision = "highest" if dtype == "float32" else "default"

    def run(*inputs: Array) -> tuple[Array, ...]:
        output, pull_back = jax.vjp(fn, *inputs)
        # Any fixed gradient of the output that is not the same everywhere.
        numbers = jnp.arange(output.size, dtype=jnp.float32)
        gradient = jnp.cos(numbers).reshape(output.shape)
        return output, *pull_back(gradient.astype(output.dtype))

    with jax.set_mesh(mesh), jax.default_matmul_precision(precision):
        # "." leaves an axis undivided.
        letters = tuple("." * x.ndim for x in arrays)
        outputs = ("." * arrays[0].ndim, *letters)
        on_device = jax.jit(local(run, letters, outputs))
        results = on_device(*(jnp.asarray(x, dtype) for x in arrays))
        return [np.asarray(x, np.float32) for x in results]
