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
from jaxtyping import Array, Bool, Float, Int

from model.execution import name
from model.kernels.plain import Maths, sees
from model.sharding import local

TYPES = ("bfloat16", "float16")
WIDEST = 256  # A; on Hopper and later, 128 before


def attend(
    q_BLHA: Float[Array, "B L H A"],
    k_BLKA: Float[Array, "B L K A"],
    v_BLKA: Float[Array, "B L K A2"],
    positions_BL: Int[Array, "B L"],
    segments_BL: Int[Array, "B L"],
    *,
    scale: float,
    window: int | None,
    soft_cap: float | None,
) -> Float[Array, "B L H A2"]:
    """`plain.attend` for an undivided L whose documents read in order, where `why_not` has no objection."""
    run = local(
        partial(_rows, maths=Maths(scale, window, soft_cap)), ("BTHA", "BTKA", "BTKA", "BT", "BT"), "BTHA"
    )
    return run(q_BLHA, k_BLKA, v_BLKA, positions_BL, segments_BL)


def why_not(q_BLHA: Array, v_BLKA: Array, *, divided: bool, soft_cap: float | None) -> str:
    """What about these inputs cuDNN cannot do, empty if nothing."""
    A, A2 = q_BLHA.shape[-1], v_BLKA.shape[-1]
    problems = {
        f"{q_BLHA.dtype} (only {' and '.join(TYPES)})": q_BLHA.dtype.name not in TYPES,
        f"an odd number of positions, {q_BLHA.shape[1]}": q_BLHA.shape[1] % 2 == 1,
        f"heads of width {A} with values of {A2} (only multiples of 8 up to {WIDEST}, values not wider)": A
        % 8
        or A > WIDEST
        or A2 > A,
        "a soft cap": soft_cap is not None,
        "rows divided over devices": divided,
    }
    return ", ".join(what for what, is_one in problems.items() if is_one)


def _rows(
    q_BLHA: Array, k_BLKA: Array, v_BLKA: Array, positions_BL: Array, segments_BL: Array, maths: Maths
) -> Array:
    A, A2 = q_BLHA.shape[-1], v_BLKA.shape[-1]
    v_BLKA = jnp.pad(
        v_BLKA, ((0, 0), (0, 0), (0, 0), (0, A - A2))
    )  # `jax.nn` wants them as wide as the queries
    cudnn = partial(jax.nn.dot_product_attention, scale=maths.scale, implementation="cudnn")

    def one_document(q: Array, k: Array, v: Array) -> Array:
        return cudnn(
            q, k, v, is_causal=True, local_window_size=None if maths.window is None else (maths.window - 1, 0)
        )

    @partial(jax.checkpoint, policy=_kernel_results)
    def packed(q: Array, k: Array, v: Array) -> Array:
        seen_BLT = sees(positions_BL, segments_BL, positions_BL, segments_BL, maths.window)
        return cudnn(q, k, v, mask=seen_BLT[:, None])

    o_BLHA = jax.lax.cond(_is_one_document(segments_BL), one_document, packed, q_BLHA, k_BLKA, v_BLKA)
    return name(o_BLHA[..., :A2], "mixed")


def _is_one_document(segments_BL: Int[Array, "B L"]) -> Bool[Array, ""]:
    """Whether each row is one document, and after it nothing but padding."""
    same = (segments_BL == segments_BL[:, :1]) | (segments_BL == 0)
    return jnp.all(same) & jnp.all(segments_BL[:, 1:] <= segments_BL[:, :-1])


def _kernel_results(primitive: Any, *_: Any, **__: Any) -> bool:
    """Keep what cuDNN computed for the backward pass, but not the bias it was given."""
    return primitive.name.startswith("dot_product_attention")
