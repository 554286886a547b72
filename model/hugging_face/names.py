"""Rows that most name tables share: the names of transformers' Llama and its many relatives.

`ours` and `theirs` are the prefixes of a layer's names. If theirs has `{N}`, it runs over layers, and ours is
a stack whose letters begin with N.
"""

from model.hugging_face.tensor import Tensor

BLOCKS = "blocks."
LAYERS = "model.layers.{N}."


def outer_rows(*, tied: bool) -> tuple[Tensor, ...]:
    """Embedding, last norm, and the output matrix unless it is tied to the embedding."""
    rows = (
        Tensor("embed_VD", "model.embed_tokens.weight", "V D"),
        Tensor("norm.scale_D", "model.norm.weight", "D"),
    )
    # a tied checkpoint has no lm_head.weight: transformers ties it to the embedding on loading
    return rows if tied else (*rows, Tensor("unembed_DV", "lm_head.weight", "V D"))


def attention_rows(*, biased: str = "", head_norm: bool = False) -> tuple[Tensor, ...]:
    """The four matrices of attention, biases of those in `biased` (among q, k, v, o), and norms of heads."""
    ours = f"{BLOCKS}attention."
    theirs = f"{LAYERS}self_attn."
    # torch's Linear stores (out, in); heads and head width are a single dimension of theirs
    layouts = {
        "q": ("NDHA", "HA D"),
        "k": ("NDKA", "KA D"),
        "v": ("NDKA", "KA D"),
        "o": ("NHAD", "D HA"),
    }
    bias_layouts = {"q": ("NHA", "HA"), "k": ("NKA", "KA"), "v": ("NKA", "KA"), "o": ("ND", "D")}
    rows = [
        Tensor(f"{ours}w{which}_{letters}", f"{theirs}{which}_proj.weight", layout)
        for which, (letters, layout) in layouts.items()
    ]
    rows += [
        Tensor(f"{ours}b{which}_{letters}", f"{theirs}{which}_proj.bias", layout)
        for which, (letters, layout) in bias_layouts.items()
        if which in biased
    ]
    if head_norm:  # a single scale of head width, shared by the heads
        rows.append(Tensor(f"{ours}q_norm.scale_NA", f"{theirs}q_norm.weight", "A"))
        rows.append(Tensor(f"{ours}k_norm.scale_NA", f"{theirs}k_norm.weight", "A"))
    return tuple(rows)


def gated_rows(
    ours: str = f"{BLOCKS}feed_forward.",
    theirs: str = f"{LAYERS}mlp.",
) -> tuple[Tensor, ...]:
    """The three matrices of a gated feed-forward layer."""
    N = _stacked(theirs)
    return (
        Tensor(f"{ours}w_gate_{N}DF", f"{theirs}gate_proj.weight", "F D"),
        Tensor(f"{ours}w_up_{N}DF", f"{theirs}up_proj.weight", "F D"),
        Tensor(f"{ours}w_down_{N}FD", f"{theirs}down_proj.weight", "D F"),
    )


def norm_rows(ours: str = BLOCKS, theirs: str = LAYERS) -> tuple[Tensor, ...]:
    """The norms before attention and before the feed-forward layer."""
    N = _stacked(theirs)
    return (
        Tensor(f"{ours}attention_norm.scale_{N}D", f"{theirs}input_layernorm.weight", "D"),
        # transformers' name, as this norm comes after attention; it is the one before the feed-forward layer
        Tensor(
            f"{ours}feed_forward_norm.scale_{N}D", f"{theirs}post_attention_layernorm.weight", "D"
        ),
    )


def expert_rows(
    ours: str,
    theirs: str,
    *,
    gate: str = "gate_proj",
    up: str = "up_proj",
    down: str = "down_proj",
) -> tuple[Tensor, ...]:
    """The router of a mixture of experts, and the matrices of each; `gate`, `up`, `down` are their names."""
    N = _stacked(theirs)
    expert = f"{theirs}experts.{{E}}."
    # `{E}` runs over experts, a dimension of ours: E tensors of theirs make one of ours
    return (
        Tensor(f"{ours}router_{N}DE", f"{theirs}gate.weight", "E D"),
        Tensor(f"{ours}w_gate_{N}EDF", f"{expert}{gate}.weight", "F D"),
        Tensor(f"{ours}w_up_{N}EDF", f"{expert}{up}.weight", "F D"),
        Tensor(f"{ours}w_down_{N}EFD", f"{expert}{down}.weight", "D F"),
    )


def _stacked(theirs: str) -> str:
    return "N" if "{N}" in theirs else ""
