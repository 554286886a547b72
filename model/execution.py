"""How a model is computed: its dtypes, and settings that change memory and speed but no result."""

from collections.abc import Callable
from typing import Any, Literal

import jax
from jax.ad_checkpoint import checkpoint_name
from pydantic import BaseModel, NonNegativeInt, PositiveInt, model_validator


class Precision(BaseModel, frozen=True, extra="forbid", strict=True):
    """Dtypes of parameters at rest and of products; norms, softmax and losses are always float32."""

    # By default float32: bfloat16 loses updates below 2^-9 of their weight, which are usual late in training.
    params: Literal["float32", "bfloat16"] = "float32"
    compute: Literal["float32", "bfloat16"] = "bfloat16"


# Names of activations, in the order of a block. The residual is the block's input, which is always kept: on
# the device, unless it is offloaded.
Name = Literal[
    "residual", "query", "key", "value", "mixed", "attention", "gate", "up", "feed_forward"
]

# preset -> the activations kept of a layer for its backward pass, beside its input
KEPT: dict[str, tuple[Name, ...]] = {
    "full": (),
    "attention": ("mixed",),
    "inputs": ("query", "key", "value", "mixed"),
    "projections": ("query", "key", "value", "mixed", "gate", "up"),
}


def name(x: jax.Array, what: Name) -> jax.Array:
    """Give an activation the name by which `Remat` selects it."""
    return checkpoint_name(x, what)


class Remat(BaseModel, frozen=True, extra="forbid", strict=True):
    """Rematerialisation: what is kept of each layer for its backward pass, on the device or in host memory
    (`offload`). Everything else is computed again.

    Presets: `none` keeps everything that the backward pass reads, `full` the layer's input alone, `attention`
    also the result of attention (before its output product), `inputs` also queries, keys and values,
    `projections` also gate and up, `dots` every product with a weight.
    """

    preset: Literal["none", "full", "attention", "inputs", "projections", "dots"] = "none"
    keep: tuple[Name, ...] = ()
    offload: tuple[Name, ...] = ()

    @model_validator(mode="after")
    def _names_agree(self) -> "Remat":
        names_any = self.keep or self.offload
        if self.preset in ("none", "dots") and names_any:
            rule = "keeps all that keep and offload could name"
            raise ValueError(f"remat.preset={self.preset} {rule}; use preset full with them")
        on_device = {*self.keep, *KEPT.get(self.preset, ())}
        both = set(self.offload) & on_device
        if both:
            rule = "are kept on the device by preset or keep"
            raise ValueError(f"remat.offload={sorted(both)} {rule}; name each once")
        return self

    def wrap(self, layer: Callable[..., Any]) -> Callable[..., Any]:
        """The layer under `jax.checkpoint` with this choice."""
        if self.preset == "none":
            return layer
        # prevent_cse adds barriers that stop XLA from merging the recomputation with the first computation.
        # Layers run in a scan, where XLA cannot merge them, so the barriers would only cost time.
        return jax.checkpoint(layer, policy=self._policy(), prevent_cse=False)

    def _policy(self) -> Callable[..., Any]:
        policies = jax.checkpoint_policies
        if self.preset == "dots":
            # Products with weights have no batch dimension. The two of attention have rows and heads as batch
            # dimensions, and are recomputed.
            return policies.dots_with_no_batch_dims_saveable
        kept_names = [*KEPT[self.preset], *self.keep]
        if not self.offload:
            return policies.save_only_these_names(*kept_names)
        return policies.save_and_offload_only_these_names(
            names_which_can_be_saved=kept_names,
            names_which_can_be_offloaded=list(self.offload),
            offload_src="device",
            # pinned memory: the device copies to and from it asynchronously, while it computes
            offload_dst="pinned_host",
        )


class Pipeline(BaseModel, frozen=True, extra="forbid", strict=True):
    """The pipeline schedule over the mesh axis `stage`: each stage holds `rounds` groups of consecutive
    layers (interleaving, Narayanan et al. 2021), and a device's rows are split into `micro_batches`, 0 = as
    many as there are stages.
    """

    rounds: PositiveInt = 1
    micro_batches: NonNegativeInt = 0


class Execution(BaseModel, frozen=True, extra="forbid", strict=True):
    """Rematerialisation, kernels and schedules; `offload` names state in host memory between steps."""

    remat: Remat = Remat()
    attention: Literal["auto", "plain", "blocked", "splash", "cudnn"] = "auto"  # auto: by platform
    context: Literal["gather", "ring"] = (
        "gather"  # how keys and values travel over the mesh axis `context`
    )
    pipeline: Pipeline = Pipeline()
    offload: tuple[Literal["optimizer", "params"], ...] = ()


DEFAULT = Execution()
