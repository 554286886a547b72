"""FLOPs of a program's products: dots, convolutions, and kernels that the compiler cannot look into."""

import functools
import math
import re

import numpy as np

from launch.planning.hlo import Instruction, Scope, Shape, attribute
from launch.planning.walk import Occurrence

# What an attention kernel's name contains -> its products of 2·rows·L·T·A FLOPs (Dao et al. 2022: scores and
# mixing forward; both backward kernels compute the scores again).
ATTENTION_PRODUCTS = {"_fwd": 2, "_dq": 3, "_dkv": 4}
ATTENTION_KERNELS = ("splash", "flash", "mha", "mqa", "attention")
GROUPED_KERNELS = ("gmm", "ragged_dot", "ragged-dot", "grouped_matmul")


def product_flops(occurrence: Occurrence) -> int:
    """FLOPs of one dot or convolution, 2 a multiply-add; 0 of all else."""
    instruction = occurrence.instruction
    known = occurrence.scope.computation.instructions
    if instruction.op == "dot":
        # 2 · elements of the result · elements that are summed over, which the left operand tells.
        left = known[instruction.operands[0]].shapes[0]
        contracted = [
            int(i) for i in (attribute(instruction, "lhs_contracting_dims") or "").split(",") if i
        ]
        return 2 * instruction.shapes[0].n_elements * math.prod(left.sizes[i] for i in contracted)
    if instruction.op == "convolution":
        left, right = (known[name].shapes[0] for name in instruction.operands[:2])
        return _convolution_flops(instruction, left, right)
    return 0


def _convolution_flops(instruction: Instruction, left: Shape, right: Shape) -> int:
    """FLOPs of a convolution, as which a TPU writes many products too. Window positions on padding do not
    count.
    """
    # dim_labels such as b01f_01io->b01f: batch, spatial numbers, input and output features.
    left_labels, right_labels, out_labels = re.split(r"_|->", attribute(instruction, "dim_labels"))
    out = instruction.shapes[0]
    window = attribute(instruction, "window") or ""
    n_spatial = len(out_labels) - 2
    meetings = 1
    for i in range(n_spatial):
        labelled = ((left, left_labels), (right, right_labels), (out, out_labels))
        sizes = [shape.sizes[labels.index(str(i))] for shape, labels in labelled]
        fields = [
            _window(window, name, i) for name in ("stride", "pad", "lhs_dilate", "rhs_dilate")
        ]
        meetings *= _meetings(*sizes, *fields)
    batch, features = (out.sizes[out_labels.index(label)] for label in "bf")
    # With batch groups an output feature is computed from the rows of its group only.
    batch_groups = int(attribute(instruction, "batch_group_count") or 1)
    return 2 * batch * features * right.sizes[right_labels.index("i")] * meetings // batch_groups


def _window(window: str, name: str, i: int) -> int:
    """One number of a printed window for spatial dimension i; of `pad` the lower."""
    match = re.search(rf"\b{name}=(\S+)", window)
    if not match:
        return 0 if name == "pad" else 1
    # `pad=1_2x0_0`: lower_upper of each spatial dimension.
    return int(match[1].split("x")[i].split("_")[0])


@functools.cache
def _meetings(
    n_in: int, n_window: int, n_out: int, stride: int, pad: int, lhs_dilate: int, rhs_dilate: int
) -> int:
    """How many pairs (position of the output, position in the window) fall on data."""
    # where the window of each output position begins on the data
    starts = np.arange(n_out) * stride - pad
    total = 0
    for k in range(n_window):
        positions = starts + k * rhs_dilate
        inside = (positions >= 0) & (positions <= (n_in - 1) * lhs_dilate)
        on_data = positions % lhs_dilate == 0  # between dilated elements there are zeros
        total += int(np.count_nonzero(inside & on_data))
    return total


def kernel_flops(occurrence: Occurrence) -> int | None:
    """FLOPs of one custom kernel; None if they are not known, 0 for an instruction that is no kernel.

    An attention kernel is assumed to be causal: it skips blocks above the diagonal, and computes all of those
    on it.
    """
    instruction = occurrence.instruction
    is_call = instruction.op in ("custom-call", "custom-call-start")
    # Other custom calls, such as those of a library or to the host, are no kernels.
    if not is_call or attribute(instruction, "custom_call_target") not in _TARGETS:
        return 0
    # The author of the kernel may have stated its cost.
    if stated := re.search(r"cost_estimate\W+flops\W+(\d+)", instruction.rest):
        return int(stated[1])
    name = instruction.name.lower()
    arrays = _arrays(instruction, occurrence.scope)
    if any(word in name for word in GROUPED_KERNELS):
        return _grouped_flops(instruction, arrays)
    phase = next((phase for phase in ATTENTION_PRODUCTS if phase in name), None)
    if phase is None or len(arrays) < 2 or not any(word in name for word in ATTENTION_KERNELS):
        return None

    return _attention_flops(instruction, phase, *arrays[:2])


_TARGETS = ('"tpu_custom_call"', '"__gpu$xla.gpu.triton"', '"mosaic_gpu"', '"triton_kernel_call"')


def _arrays(instruction: Instruction, scope: Scope) -> list[Shape]:
    """The kernel's operands that are arrays of numbers to be multiplied."""
    shapes = [
        shape
        for name in instruction.operands
        for shape in scope.computation.instructions[name].shapes
    ]
    # bf16, f32 …; integers are indices or masks.
    return [shape for shape in shapes if shape.dtype[0] in "bf" and len(shape.sizes) > 1]


def _attention_flops(instruction: Instruction, phase: str, q: Shape, k: Shape) -> int:
    """FLOPs of L positions of queries against T of keys."""
    # A fused backward kernel (three results) also computes the gradient of q, one product more.
    products = ATTENTION_PRODUCTS[phase] + (phase == "_dkv" and len(instruction.shapes) > 2)
    # keys are [heads, positions, head width]
    T = k.sizes[-2]
    block = re.search(r"block_kv\W+(\d+)", instruction.rest)
    # Of n × n blocks, (n + 1)·n/2 are on or below the diagonal.
    n_blocks = max(T // int(block[1]), 1) if block else T
    # q has rows · heads · L · A elements; (n + 1) / 2n of the blocks are computed.
    return int(2 * products * q.n_elements * T * (n_blocks + 1) / (2 * n_blocks))


def _grouped_flops(instruction: Instruction, arrays: list[Shape]) -> int | None:
    """2·M·K·N: each row of [M, K] times one matrix of [E, K, N]. Backward one of the two is the result."""
    matrices = [shape for shape in (*arrays, *instruction.shapes) if len(shape.sizes) == 2]
    stacks = [shape for shape in (*arrays, *instruction.shapes) if len(shape.sizes) == 3]
    if not matrices or not stacks:
        return None
    # M · K · N, whichever of the two is the result.
    return 2 * matrices[0].sizes[0] * math.prod(stacks[0].sizes[-2:])
