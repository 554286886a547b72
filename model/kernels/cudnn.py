"""GPUs: cuDNN's flash attention, through `jax.nn.dot_product_attention`.

cuDNN has causal masks and windows, but no segments. Rows of a single document followed by padding need none;
at run time a conditional checks whether all rows are such. If not, segments become a bias of [B, 1, L, L] in
the dtype of the queries, which the backward pass recomputes. This takes about twice as long, since cuDNN then
skips no masked blocks.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from model.execution import name
from model.exits import local
from model.kernels.attend import Maths, sees

TYPES = ("bfloat16", "float16")
# Head widths up to which JAX calls cuDNN: on GPUs from Hopper on (compute capability 9), and before it.
WIDEST, WIDEST_BEFORE_HOPPER = 256, 128
HOPPER = 9


def attend(
    q_BLHA: Array,
    k_BLKA: Array,
    v_BLKA: Array,
    positions_BL: Array,
    segments_BL: Array,
    maths: Maths,
) -> Array:
    """An `Attend` for inputs that `why_not` accepts."""
    # letter T instead of L: `why_not` refuses sharded rows, so every device has complete rows
    run = local(partial(_on_device, maths=maths), ("BTHA", "BTKA", "BTKA", "BT", "BT"), "BTHA")
    return run(q_BLHA, k_BLKA, v_BLKA, positions_BL, segments_BL)


def why_not(
    q_BLHA: Array,
    v_BLKA: Array,
    *,
    divided: bool,
    soft_cap: float | None,
) -> str:
    """What cuDNN does not support in these inputs, in words; "" if it supports them."""
    L = q_BLHA.shape[1]
    A, A2 = q_BLHA.shape[-1], v_BLKA.shape[-1]
    most = widest(compute_capability())
    wrong_width = A % 8 != 0 or A > most or A2 > A
    rule = f"only multiples of 8 up to {most}, values not wider"
    problems = {
        f"{q_BLHA.dtype} (only {' and '.join(TYPES)})": q_BLHA.dtype.name not in TYPES,
        # cuDNN has no gradient with a bias, which packed rows have, for odd lengths
        f"an odd number of positions, {L}": L % 2 == 1,
        f"heads of width {A} with values of {A2} ({rule})": wrong_width,
        "a soft cap": soft_cap is not None,
        "rows divided over devices": divided,
    }
    return ", ".join(what for what, is_wrong in problems.items() if is_wrong)


def widest(capability: str) -> int:
    """The widest heads that JAX gives to cuDNN on a GPU of a compute capability such as `8.0`."""
    major = int(capability.split(".")[0])
    return WIDEST if major >= HOPPER else WIDEST_BEFORE_HOPPER


def compute_capability() -> str:
    """That of this process's GPUs; without one, when it compiles for GPUs elsewhere, Hopper's."""
    device = jax.local_devices()[0]
    return device.compute_capability if device.platform == "gpu" else f"{HOPPER}.0"


def _on_device(
    q_BLHA: Array,
    k_BLKA: Array,
    v_BLKA: Array,
    positions_BL: Array,
    segments_BL: Array,
    maths: Maths,
) -> Array:
    A, A2 = q_BLHA.shape[-1], v_BLKA.shape[-1]
    # `jax.nn.dot_product_attention` requires values as wide as queries
    v_BLKA = jnp.pad(v_BLKA, ((0, 0), (0, 0), (0, 0), (0, A - A2)))
    cudnn = partial(jax.nn.dot_product_attention, scale=maths.scale, implementation="cudnn")
    # its window counts positions to the left and right, without the position itself
    local_window = None if maths.window is None else (maths.window - 1, 0)

    def one_document(q: Array, k: Array, v: Array) -> Array:
        return cudnn(q, k, v, is_causal=True, local_window_size=local_window)

    # without the checkpoint the bias of [B, 1, L, L] would be kept for the backward pass of every layer
    @partial(jax.checkpoint, policy=_kernel_results)
    def packed(q: Array, k: Array, v: Array) -> Array:
        seen_BLT = sees(positions_BL, segments_BL, positions_BL, segments_BL, maths.window)
        return cudnn(q, k, v, mask=seen_BLT[:, None])

    # Both branches are compiled and one runs, since packing depends on the batch, not on shapes.
    o_BLHA = jax.lax.cond(
        _is_one_document(segments_BL), one_document, packed, q_BLHA, k_BLKA, v_BLKA
    )
    return name(o_BLHA[..., :A2], "mixed")


def _is_one_document(segments_BL: Int[Array, "B L"]) -> Bool[Array, ""]:
    """Whether each row is one document, and after it nothing but padding."""
    same = (segments_BL == segments_BL[:, :1]) | (segments_BL == 0)
    # padding before or within a document would be seen through the causal mask
    padding_is_last = segments_BL[:, 1:] <= segments_BL[:, :-1]
    return jnp.all(same) & jnp.all(padding_is_last)


def _kernel_results(primitive: Any, *_: Any, **__: Any) -> bool:
    """A checkpoint policy: keep what cuDNN computes for the backward pass, but not its bias."""
    return primitive.name.startswith("dot_product_attention")
