"""Every attention kernel that this platform can run, against the plain form computed in float32."""

import functools
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from launch.bench.device.rows import Check, Row, Skip, compared
from model.exits import local
from model.kernels import cudnn, plain
from model.kernels.attend import Attend, Maths
from model.kernels.choose import NEEDS, UNDIVIDED, attention_of
from model.kernels.context import balance, unbalance
from model.kernels.loops import LOOPS
from model.kernels.runs import Row as KeyRow
from model.kernels.runs import attend_rows
from model.mesh import make_mesh
from model.sharding import named

# ‖kernel - plain‖ / ‖plain‖. In float32 only the order of sums differs (1e-6 on a CPU); in bfloat16 an
# operand is rounded by up to 2**-9 = 2e-3, and a gradient passes three such products: 1e-2 in the worst block
# of 128 positions on a CPU. A window that is one key too wide gives 6e-2, a wrong mask 0.1 to 1.
BOUNDS = {"float32": 1e-4, "bfloat16": 2.5e-2}
# Layouts of the five inputs and the output gradient: rows, positions, heads, width of a head.
LETTERS = ("BLHA", "BLKA", "BLKA", "BL", "BL", "BLHA")


class Case(NamedTuple):
    """Sizes and rules of one comparison: H query heads of width A read K key/value heads, values have width
    A2. `packed` rows hold several documents and padding, others one document.
    """

    name: str
    H: int
    K: int
    A: int
    A2: int
    packed: bool
    window: int | None = None
    soft_cap: float | None = None

    @property
    def maths(self) -> Maths:
        """What a kernel is to compute."""
        # 1/sqrt(width): the usual scale of scores (Vaswani et al. 2017, section 3.2.1).
        return Maths(scale=self.A**-0.5, window=self.window, soft_cap=self.soft_cap)


class Inputs(NamedTuple):
    """Arguments of attention, and the gradient of its output: 0 on padding, whose output nobody reads."""

    q_BLHA: np.ndarray
    k_BLKA: np.ndarray
    v_BLKA: np.ndarray
    positions_BL: np.ndarray
    segments_BL: np.ndarray
    grad_BLHA: np.ndarray


CASES = (  # head widths are those of Llama, Gemma 2 and DeepSeek-V3
    Case("one document", H=8, K=8, A=128, A2=128, packed=False),
    Case("packed, grouped heads", H=8, K=2, A=128, A2=128, packed=True),
    Case("packed, one key head, width 64", H=8, K=1, A=64, A2=64, packed=True),
    Case("one document, window", H=8, K=2, A=128, A2=128, packed=False, window=300),
    Case("packed, window", H=8, K=2, A=128, A2=128, packed=True, window=300),
    Case(
        "packed, soft cap and window",
        H=4,
        K=2,
        A=256,
        A2=256,
        packed=True,
        window=300,
        soft_cap=50.0,
    ),
    Case("packed, narrow values", H=8, K=8, A=192, A2=128, packed=True),
)
SMALL_CASES = (
    Case("packed, grouped heads", H=4, K=2, A=16, A2=16, packed=True),
    Case("packed, soft cap and window", H=4, K=1, A=16, A2=8, packed=True, window=7, soft_cap=2.0),
)
# Only these two (grouped heads, and all rules at once), because each costs a compilation.
IN_FLOAT32 = ("packed, grouped heads", "packed, soft cap and window")
LENGTH = 1536  # positions: several blocks of every kernel, and scores of one head are 9 MB
SMALL_LENGTH = 48


def attention_checks(*, small: bool) -> Iterator[Check]:
    """One check a kernel, case and dtype; first the kernels of one device, then rows divided over devices."""
    platform = jax.default_backend()
    cases = SMALL_CASES if small else CASES
    length = SMALL_LENGTH if small else LENGTH
    in_float32 = IN_FLOAT32[1:] if small else IN_FLOAT32
    for name, attend in _kernels(platform).items():
        for case in cases:
            dtypes = ["bfloat16"]
            # float32 shows what rounding would hide. cuDNN has no attention in float32.
            if name != "cudnn" and case.name in in_float32:
                dtypes.append("float32")
            for dtype in dtypes:
                run = functools.partial(check_attention, name, attend, case, dtype, length=length)
                yield Check(title(name, case, dtype), run, compares=True)

    # A CPU computes bfloat16 by way of float32, and slowly.
    dtype = "float32" if platform == "cpu" else "bfloat16"
    for context in ("gather", "ring"):
        attend = attention_of("auto", context, platform)
        name = f"{context} over 2 devices"
        for case in cases:
            if case.name not in in_float32:
                continue
            run = functools.partial(
                check_attention,
                name,
                attend,
                case,
                dtype,
                length=length,
                context_devices=2,
            )
            yield Check(title(name, case, dtype), run, compares=True)


def _kernels(platform: str) -> dict[str, Attend]:
    """The kernels for one device that can run here, but the plain form, which is the reference."""
    kernels = {}
    for name, attend in UNDIVIDED.items():
        runs_here = NEEDS.get(name, platform) == platform
        if runs_here and name != "plain":
            kernels[name] = attend
    kernels["loops"] = loops_attend
    return kernels


def title(kernel: str, case: Case, dtype: str) -> str:
    """The first column of the table."""
    return f"attention {kernel}: {case.name}, {dtype}"


def check_attention(
    kernel: str, attend: Attend, case: Case, dtype: str, *, length: int, context_devices: int = 1
) -> Row:
    """Output and the gradients of queries, keys and values of a kernel beside those of the plain form.

    The inputs of both are rounded to bfloat16 first, so that what differs is the kernel and not its input.
    """
    if context_devices > len(jax.devices()):
        raise Skip(f"needs {context_devices} devices, and there is {len(jax.devices())}")
    inputs = inputs_of(case, length)
    if kernel == "cudnn":
        # `why_not` looks at shapes and dtypes only.
        q_BLHA = jnp.asarray(inputs.q_BLHA, dtype)
        v_BLKA = jnp.asarray(inputs.v_BLKA, dtype)
        objection = cudnn.why_not(q_BLHA, v_BLKA, divided=False, soft_cap=case.soft_cap)
        if objection:
            raise Skip(f"cuDNN cannot do {objection}; training uses blocked there")

    # Cached, because the plain form is the slowest, and the same for every kernel.
    wanted = plain_results(case, length)
    got = output_and_gradients(attend, inputs, case, dtype, context_devices=context_devices)
    errors = {}
    for name, x, exact in zip(("output", "dq", "dk", "dv"), got, wanted, strict=True):
        errors[name] = relative_error(x, exact)
    return compared(title(kernel, case, dtype), errors, dict.fromkeys(errors, BOUNDS[dtype]))


@functools.cache
def plain_results(case: Case, length: int) -> list[np.ndarray]:
    """What `output_and_gradients` of the plain form is in float32; shared by all kernels."""
    return output_and_gradients(plain.attend, inputs_of(case, length), case, "float32")


@functools.cache
def inputs_of(case: Case, length: int, n_rows: int = 2) -> Inputs:
    """Random rows whose numbers are bfloat16's. In packed rows documents of different lengths follow one
    another, the last one before some padding.
    """
    # A fixed seed, so that two runs on one device give the same table.
    rng = np.random.default_rng(length + case.H)
    # Segment 0 is padding; documents count from 1.
    positions_BL = np.zeros((n_rows, length), np.int32)
    segments_BL = np.zeros((n_rows, length), np.int32)
    for b in range(n_rows):
        # The last sixth of a packed row is padding.
        end = length - length // 6 if case.packed else length
        # One cut more than the row before, so that the rows are not alike.
        inner_cuts = rng.integers(1, end, 2 + b) if case.packed else []
        cuts = sorted({0, end, *map(int, inner_cuts)})
        for segment, (start, stop) in enumerate(pairwise(cuts), 1):
            # Positions start again with each document, as rotary embeddings need them.
            positions_BL[b, start:stop] = range(stop - start)
            segments_BL[b, start:stop] = segment

    def normal(n_heads: int, width: int) -> np.ndarray:
        return rng.normal(0, 1, (n_rows, length, n_heads, width))

    # In this order: the numbers of one draw depend on those before it.
    q_BLHA = normal(case.H, case.A)
    k_BLKA = normal(case.K, case.A)
    v_BLKA = normal(case.K, case.A2)
    grad_BLHA = normal(case.H, case.A2)
    grad_BLHA = grad_BLHA * (segments_BL[..., None, None] > 0)
    return Inputs(
        _rounded(q_BLHA),
        _rounded(k_BLKA),
        _rounded(v_BLKA),
        positions_BL,
        segments_BL,
        _rounded(grad_BLHA),
    )


def _rounded(x: np.ndarray) -> np.ndarray:
    """The nearest numbers of bfloat16, as float32."""
    return np.asarray(jnp.asarray(x, jnp.bfloat16), np.float32)


def output_and_gradients(
    attend: Attend, inputs: Inputs, case: Case, dtype: str, *, context_devices: int = 1
) -> list[np.ndarray]:
    """[output without padding, gradients of queries, keys and values], in float32 and in the rows' order."""
    # All devices are on the axis `context`, which divides the positions of a row.
    mesh = make_mesh(jax.devices()[:context_devices], context=context_devices)

    def run(
        q_BLHA: Array,
        k_BLKA: Array,
        v_BLKA: Array,
        positions_BL: Array,
        segments_BL: Array,
        grad: Array,
    ):
        # A divided row is reordered so that every device has the same amount of work.
        q_BLHA = balance(q_BLHA, "BLHA")
        k_BLKA = balance(k_BLKA, "BLKA")
        v_BLKA = balance(v_BLKA, "BLKA")
        positions_BL = balance(positions_BL, "BL")
        segments_BL = balance(segments_BL, "BL")

        def of_arrays(q_BLHA: Array, k_BLKA: Array, v_BLKA: Array) -> Array:
            return attend(q_BLHA, k_BLKA, v_BLKA, positions_BL, segments_BL, case.maths)

        o_BLHA, pull_back = jax.vjp(of_arrays, q_BLHA, k_BLKA, v_BLKA)
        dq_BLHA, dk_BLKA, dv_BLKA = pull_back(balance(grad, "BLHA"))
        return (
            unbalance(o_BLHA, "BLHA"),
            unbalance(dq_BLHA, "BLHA"),
            unbalance(dk_BLKA, "BLKA"),
            unbalance(dv_BLKA, "BLKA"),
        )

    def placed(x: np.ndarray, letters: str) -> jax.Array:
        # Positions and segments stay integers; only queries, keys, values and gradients are rounded.
        kind = x.dtype if x.dtype == np.int32 else jnp.dtype(dtype)
        return jax.device_put(x.astype(kind), named(mesh, letters, x.shape))

    # By default the factors of float32 products are rounded to bfloat16 (TPUs) or TensorFloat-32 (GPUs).
    # With bfloat16 operands, for which the setting means nothing, kernels refuse it.
    precision = "highest" if dtype == "float32" else "default"
    with jax.set_mesh(mesh), jax.default_matmul_precision(precision):
        arrays = [placed(x, letters) for x, letters in zip(inputs, LETTERS, strict=True)]
        results = [np.asarray(x, np.float32) for x in jax.jit(run)(*arrays)]

    # The output on padding is not defined: each kernel has its own, and nobody reads it.
    results[0] = results[0] * (inputs.segments_BL > 0)[..., None, None]

    return results


def relative_error(x: np.ndarray, exact: np.ndarray) -> float:
    """The largest of ‖x - exact‖ / ‖exact‖ over the rows, and over blocks of 128 positions relative to the
    mean block, so that an error at the edge of one block is not averaged away.
    """
    # Axes 2 and 3 are heads and their width: what is left is an error for each position.
    squares_BL = np.sum(np.square(x - exact), (2, 3))
    exact_BL = np.sum(np.square(exact), (2, 3))
    # 128: the smallest block of any kernel here
    starts = np.arange(0, x.shape[1], 128)
    # reduceat sums from each start to the next; the last block may be shorter.
    blocks_BU = np.add.reduceat(squares_BL, starts, 1)
    # Relative to the mean block, because a block of padding has a norm of 0.
    mean_block = exact_BL.sum() / blocks_BU.size
    worst_block = blocks_BU.max() / mean_block
    rows_B = squares_BL.sum(1) / exact_BL.sum(1)
    return float(np.sqrt(max(rows_B.max(), worst_block)))


def loops_attend(
    q_BLHA: Array,
    k_BLKA: Array,
    v_BLKA: Array,
    positions_BL: Array,
    segments_BL: Array,
    maths: Maths,
) -> Array:
    """The loops that `blocked` uses for rows of more than 4,096 positions, here for a row of any length."""

    def on_device(q: Array, k: Array, v: Array, positions: Array, segments: Array) -> Array:
        # One run, which starts at position 0: the row is not divided.
        first = jnp.zeros((), jnp.int32)
        row = KeyRow(positions, segments, (first,))
        # The kernel wants heads before positions, so that the last two axes are a matrix.
        q = q.swapaxes(1, 2)
        k = k.swapaxes(1, 2)
        v = v.swapaxes(1, 2)
        o = attend_rows(q, k, v, row, row, LOOPS, maths)
        return o.swapaxes(1, 2)

    run: Callable[..., Array] = local(on_device, ("BTHA", "BTKA", "BTKA", "BT", "BT"), "BTHA")
    return run(q_BLHA, k_BLKA, v_BLKA, positions_BL, segments_BL)
