"""The choice of the attention kernel, by `execution.attention`, `execution.context` and the platform."""

from functools import partial
from typing import Any

from jaxtyping import Array, Float, Int

from model.execution import Execution
from model.kernels import blocked, context, cudnn, plain, splash
from model.kernels.attend import Attend, Maths
from model.kernels.loops import LOOPS
from model.mesh import platform
from model.sharding import axes_of

BY_PLATFORM = {"cpu": "blocked", "gpu": "cudnn", "tpu": "splash"}
UNDIVIDED: dict[str, Attend] = {  # kernels for rows that are not sharded along L
    "plain": plain.attend,
    "blocked": blocked.attend,
    "splash": splash.attend,
    "cudnn": cudnn.attend,
}
NEEDS = {"splash": "tpu", "cudnn": "gpu"}
DIVIDED = {"gather": context.gather, "ring": context.ring}


def attend_of(execution: Execution) -> Attend:
    """The kernel for the platform of the mesh under which it is traced."""

    def attend(*operands: Any) -> Array:
        # chosen while tracing: when the model is built there may be no mesh yet
        kernel = attention_of(execution.attention, execution.context, platform())
        return kernel(*operands)

    return attend


def attention_of(attention: str, context: str, platform: str) -> Attend:
    """The kernel for these fields of `Execution`.

    `auto` is splash on TPUs, cuDNN on GPUs and blocked elsewhere. On GPUs it falls back to blocked for
    what cuDNN cannot do: float32, a soft cap, head widths that are not multiples of 8 or exceed 256, and
    rows sharded over devices, which need the log-sum-exp of each part and its gradient. `plain` has no
    special form for sharded rows: it gathers keys and values and computes all scores.

    Raises:
        ValueError: the requested kernel does not support the platform, or the shapes and dtypes.
    """
    # An explicitly requested kernel is never silently replaced by another.
    name = BY_PLATFORM.get(platform, "blocked") if attention == "auto" else attention
    if NEEDS.get(name, platform) != platform:
        raise ValueError(
            f"execution.attention={name} needs a {NEEDS[name]}, not a {platform}; use auto"
        )

    def attend(
        q_BLHA: Float[Array, "B L H A"],
        k_BLKA: Float[Array, "B L K A"],
        v_BLKA: Float[Array, "B L K A2"],
        positions_BL: Int[Array, "B L"],
        segments_BL: Int[Array, "B L"],
        maths: Maths,
    ) -> Float[Array, "B L H A2"]:
        # decided for this length: a mesh that shards rows does not shard the single token of a decoding step
        divided = bool(axes_of("L", q_BLHA.shape[1]))
        kernel = name
        if kernel == "cudnn":
            obstacle = cudnn.why_not(q_BLHA, v_BLKA, divided=divided, soft_cap=maths.soft_cap)
            if obstacle and attention != "auto":
                raise ValueError(
                    f"execution.attention=cudnn cannot do {obstacle}; use auto or blocked"
                )
            if obstacle:
                kernel = "blocked"
        run = _divided(kernel, context) if divided else UNDIVIDED[kernel]
        return run(q_BLHA, k_BLKA, v_BLKA, positions_BL, segments_BL, maths)

    return attend


def _divided(kernel: str, context: str) -> Attend:
    if kernel == "plain":
        return plain.attend
    # `blocked` cannot work on a part of the keys; LOOPS computes the same for runs in any order
    return partial(DIVIDED[context], kernel=splash.SPLASH if kernel == "splash" else LOOPS)
