"""Which kernel computes attention: said by `execution.attention` and `execution.context`, or by the
platform.
"""

from collections.abc import Callable
from functools import partial

from jaxtyping import Array, Float, Int

from model.kernels import blocked, context, cudnn, plain, splash
from model.kernels.loops import LOOPS
from model.sharding import axes_of

Attend = Callable[..., Array]

BY_PLATFORM = {"cpu": "blocked", "gpu": "cudnn", "tpu": "splash"}
WHOLE: dict[str, Attend] = {
    "plain": plain.attend,
    "blocked": blocked.attend,
    "splash": splash.attend,
    "cudnn": cudnn.attend,
}
NEEDS = {"splash": "tpu", "cudnn": "gpu"}
DIVIDED: dict[str, Attend] = {"gather": context.gather, "ring": context.ring}


def attention_of(attention: str, context: str, platform: str) -> Attend:
    """attend(q_BLHA, k_BLKA, v_BLKA2, positions_BL, segments_BL, *, scale, window, soft_cap) -> o_BLHA2
    (see `plain.attend`).

    `auto` is splash on TPUs, cuDNN on GPUs and blocks elsewhere. On GPUs it falls back to blocks for what
    cuDNN cannot do: float32, a soft cap, head widths that are no multiple of 8 or beyond 256, and a row
    divided over devices, whose parts need the sums of weights and their gradients. `plain` needs no
    strategy for a divided row: it gathers keys and values and computes all scores.

    Raises:
        ValueError: the platform, or the row and heads at hand, are none that the kernel asked for can do.
    """
    name = BY_PLATFORM.get(platform, "blocked") if attention == "auto" else attention
    if NEEDS.get(name, platform) != platform:
        raise ValueError(f"execution.attention={name} needs a {NEEDS[name]}, not a {platform}; use auto")

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
        divided = bool(axes_of("L", q_BLHA.shape[1]))
        kernel = name
        if name == "cudnn" and (why := cudnn.why_not(q_BLHA, v_BLKA, divided=divided, soft_cap=soft_cap)):
            if attention != "auto":
                raise ValueError(f"execution.attention=cudnn cannot do {why}; use auto or blocked")
            kernel = "blocked"
        run = _divided(kernel, context) if divided else WHOLE[kernel]
        return run(
            q_BLHA, k_BLKA, v_BLKA, positions_BL, segments_BL, scale=scale, window=window, soft_cap=soft_cap
        )

    return attend


def _divided(kernel: str, context: str) -> Attend:
    if kernel == "plain":
        return plain.attend
    return partial(DIVIDED[context], kernel=splash.SPLASH if kernel == "splash" else LOOPS)
