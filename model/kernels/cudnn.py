"""GPUs: cuDNN's flash attention, through `jax.nn.dot_product_attention`.

cuDNN knows causal masks and windows, but no segments. Rows that hold one document each, and padding behind
it, need none, so whether all rows here do is asked while running; if not, the segments go in as a bias of
[B, 1, L, L] in the type of the queries, which is computed anew in the backward pass and not kept. Such rows
take about twice as long, since cuDNN skips nothing then.
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
WIDEST = 256  # A; on Hopper and later, 128 before


def attend(
    q_BLHA: Array,
    k_BLKA: Array,
    v_BLKA: Array,
    positions_BL: Array,
    segments_BL: Array,
    maths: Maths,
) -> Array:
    """An `Attend`, where `why_not` has no objection."""
    # T and not L: `why_not` refuses rows that are divided, so every row is on one device
    run = local(partial(_on_device, maths=maths), ("BTHA", "BTKA", "BTKA", "BT", "BT"), "BTHA")
    return run(q_BLHA, k_BLKA, v_BLKA, positions_BL, segments_BL)


def why_not(
    q_BLHA: Array,
    v_BLKA: Array,
    *,
    divided: bool,
    soft_cap: float | None,
) -> str:
    """What about these inputs cuDNN cannot do, empty if nothing."""
    L = q_BLHA.shape[1]
    A, A2 = q_BLHA.shape[-1], v_BLKA.shape[-1]
    wrong_width = A % 8 != 0 or A > WIDEST or A2 > A
    rule = f"only multiples of 8 up to {WIDEST}, values not wider"
    problems = {
        f"{q_BLHA.dtype} (only {' and '.join(TYPES)})": q_BLHA.dtype.name not in TYPES,
        # cuDNN has no gradient with a bias, which packed rows have, for odd lengths
        f"an odd number of positions, {L}": L % 2 == 1,
        f"heads of width {A} with values of {A2} ({rule})": wrong_width,
        "a soft cap": soft_cap is not None,
        "rows divided over devices": divided,
    }
    return ", ".join(what for what, is_wrong in problems.items() if is_wrong)


def _on_device(
    q_BLHA: Array,
    k_BLKA: Array,
    v_BLKA: Array,
    positions_BL: Array,
    segments_BL: Array,
    maths: Maths,
) -> Array:
    A, A2 = q_BLHA.shape[-1], v_BLKA.shape[-1]
    # `jax.nn` wants values as wide as the queries
    v_BLKA = jnp.pad(v_BLKA, ((0, 0), (0, 0), (0, 0), (0, A - A2)))
    cudnn = partial(jax.nn.dot_product_attention, scale=maths.scale, implementation="cudnn")
    # theirs counts the positions to either side, without the position itself
    local_window = None if maths.window is None else (maths.window - 1, 0)

    def one_document(q: Array, k: Array, v: Array) -> Array:
        return cudnn(q, k, v, is_causal=True, local_window_size=local_window)

    # without the checkpoint the bias of [B, 1, L, L] would be kept for the backward pass of every layer
    @partial(jax.checkpoint, policy=_kernel_results)
    def packed(q: Array, k: Array, v: Array) -> Array:
        seen_BLT = sees(positions_BL, segments_BL, positions_BL, segments_BL, maths.window)
        return cudnn(q, k, v, mask=seen_BLT[:, None])

    # both are compiled, one runs: packing is a matter of the batch at hand, not of the shapes
    o_BLHA = jax.lax.cond(
        _is_one_document(segments_BL), one_document, packed, q_BLHA, k_BLKA, v_BLKA
    )
    return name(o_BLHA[..., :A2], "mixed")


def _is_one_document(segments_BL: Int[Array, "B L"]) -> Bool[Array, ""]:
    """Whether each row is one document, and after it nothing but padding."""
    same = (segments_BL == segments_BL[:, :1]) | (segments_BL == 0)
    # padding before or within a document would count in its causal mask
    padding_is_last = segments_BL[:, 1:] <= segments_BL[:, :-1]
    return jnp.all(same) & jnp.all(padding_is_last)


def _kernel_results(primitive: Any, *_: Any, **__: Any) -> bool:
    """Keep what cuDNN computed for the backward pass, but not the bias it was given."""
    return primitive.name.startswith("dot_product_attention")
