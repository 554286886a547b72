"""Which kernel computes attention: said by `execution.attention` and `execution.context`, or by the
platform.
"""

from functools import partial

from jaxtyping import Array, Float, Int

from model.execution import Execution
from model.kernels import blocked, context, cudnn, plain, splash
from model.kernels.attend import Attend, Maths
from model.kernels.loops import LOOPS
from model.mesh import platform
from model.sharding import axes_of

BY_PLATFORM = {"cpu": "blocked", "gpu": "cudnn", "tpu": "splash"}
UNDIVIDED: dict[str, Attend] = {  # kernels of rows that are not divided along L
    "plain": plain.attend,
    "blocked": blocked.attend,
    "splash": splash.attend,
    "cudnn": cudnn.attend,
}
NEEDS = {"splash": "tpu", "cudnn": "gpu"}
DIVIDED = {"gather": context.gather, "ring": context.ring}


def attend_of(execution: Execution) -> Attend:
    """The kernel for the platform of the mesh under which it is traced."""

    def attend(
        q_BLHA: Array,
        k_BLKA: Array,
        v_BLKA: Array,
        positions_BL: Array,
        segments_BL: Array,
        maths: Maths,
    ) -> Array:
        # asked while tracing: where a model is built there may be no mesh yet
        kernel = attention_of(execution.attention, execution.context, platform())
        return kernel(q_BLHA, k_BLKA, v_BLKA, positions_BL, segments_BL, maths)

    return attend


def attention_of(attention: str, context: str, platform: str) -> Attend:
    """The kernel for these fields of `Execution`, with the shapes of its arrays checked by their annotations.

    `auto` is splash on TPUs, cuDNN on GPUs and blocks elsewhere. On GPUs it falls back to blocks for what
    cuDNN cannot do: float32, a soft cap, head widths that are no multiple of 8 or beyond 256, and a row
    divided over devices, whose parts need the sums of weights and their gradients. `plain` needs no
    strategy for a divided row: it gathers keys and values and computes all scores.

    Raises:
        ValueError: the platform, or the row and heads at hand, are none that the kernel asked for can do.
    """
    # checked while building the trace: a kernel that was asked for is never silently replaced
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
        # known only here: a single token of decoding is not divided on the mesh that divides a row
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
    # blocked has no form for a part of the keys; the loops compute the same in any order of runs
    return partial(DIVIDED[context], kernel=splash.SPLASH if kernel == "splash" else LOOPS)
