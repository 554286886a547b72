"""Rows that most name tables share, for the names of transformers' Llama and its many relatives."""

from model.hugging_face.tensor import Tensor


def outer_rows(*, tied: bool) -> tuple[Tensor, ...]:
    """Embedding, last norm, and the output matrix where it is one of its own."""
    rows = (
        Tensor("embed_VD", "model.embed_tokens.weight", "V D"),
        Tensor("norm.scale_D", "model.norm.weight", "D"),
    )
    return rows if tied else (*rows, Tensor("unembed_DV", "lm_head.weight", "V D"))


def attention_rows(*, biased: str = "", head_norm: bool = False) -> tuple[Tensor, ...]:
    """The four products of attention; with biases of those in `biased` (among q, k, v, o), and norms over
    each head.
    """
    stack, theirs = "blocks.attention.", "model.layers.{N}.self_attn."
    layouts = {"q": ("NDHA", "HA D"), "k": ("NDKA", "KA D"), "v": ("NDKA", "KA D"), "o": ("NHAD", "D HA")}
    bias_layouts = {"q": ("NHA", "HA"), "k": ("NKA", "KA"), "v": ("NKA", "KA"), "o": ("ND", "D")}
    rows = [
        Tensor(f"{stack}w{one}_{ours}", f"{theirs}{one}_proj.weight", layout)
        for one, (ours, layout) in layouts.items()
    ]
    rows += [
        Tensor(f"{stack}b{one}_{ours}", f"{theirs}{one}_proj.bias", layout)
        for one, (ours, layout) in bias_layouts.items()
        if one in biased
    ]
    if head_norm:
        rows += [Tensor(f"{stack}{one}_norm.scale_NA", f"{theirs}{one}_norm.weight", "A") for one in "qk"]
    return tuple(rows)


def gated_rows(
    ours: str = "blocks.feed_forward.", theirs: str = "model.layers.{N}.mlp."
) -> tuple[Tensor, ...]:
    """The three products of a gated feed-forward layer; `ours` and `theirs` are what its names begin with."""
    N = "N" if "{N}" in theirs else ""
    return (
        Tensor(f"{ours}w_gate_{N}DF", f"{theirs}gate_proj.weight", "F D"),
        Tensor(f"{ours}w_up_{N}DF", f"{theirs}up_proj.weight", "F D"),
        Tensor(f"{ours}w_down_{N}FD", f"{theirs}down_proj.weight", "D F"),
    )


def norm_rows(ours: str = "blocks.", theirs: str = "model.layers.{N}.") -> tuple[Tensor, ...]:
    """The norms before attention and before the feed-forward layer."""
    N = "N" if "{N}" in theirs else ""
    return (
        Tensor(f"{ours}attention_norm.scale_{N}D", f"{theirs}input_layernorm.weight", "D"),
        Tensor(f"{ours}feed_forward_norm.scale_{N}D", f"{theirs}post_attention_layernorm.weight", "D"),
    )
