"""Rows that most name tables share, for the names of transformers' Llama and its many relatives."""

from model.hugging_face.tensor import Tensor


def outer_rows(*, tied: bool) -> tuple[Tensor, ...]:
    """Embedding, last norm, and the output matrix where it is one of its own."""
    rows = (Tensor("embed_VD", "model.embed_tokens.weight", "V D"), Tensor("norm.scale_D", "model.norm.weight", "D"))
    return rows if tied else (*rows, Tensor("unembed_DV", "lm_head.weight", "V D"))


def attention_rows(stack: str, *, first: int = 0, biased: str = "", head_norm: bool = False) -> tuple[Tensor, ...]:
    """The four products of attention; with biases of those in `biased` (among q, k, v, o), and norms over each head."""
    theirs = "model.layers.{N}.self_attn."
    layouts = {"q": ("NDHA", "HA D"), "k": ("NDKA", "KA D"), "v": ("NDKA", "KA D"), "o": ("NHAD", "D HA")}
    bias_layouts = {"q": ("NHA", "HA"), "k": ("NKA", "KA"), "v": ("NKA", "KA"), "o": ("ND", "D")}
    rows = [Tensor(f"{stack}.attention.w{one}_{ours}", f"{theirs}{one}_proj.weight", layout) for one, (ours, layout) in layouts.items()]
    rows += [
        Tensor(f"{stack}.attention.b{one}_{ours}", f"{theirs}{one}_proj.bias", layout)
        for one, (ours, layout) in bias_layouts.items()
        if one in biased
    ]
    if head_norm:
        rows += [Tensor(f"{stack}.attention.{one}_norm.scale_NA", f"{theirs}{one}_norm.weight", "A") for one in "qk"]
    return tuple(row._replace(first=first) for row in rows)


def gated_rows(stack: str, *, first: int = 0) -> tuple[Tensor, ...]:
    """The three products of a gated feed-forward layer."""
    ours, theirs = f"{stack}.feed_forward.w_", "model.layers.{N}.mlp."
    return (
        Tensor(f"{ours}gate_NDF", f"{theirs}gate_proj.weight", "F D", first),
        Tensor(f"{ours}up_NDF", f"{theirs}up_proj.weight", "F D", first),
        Tensor(f"{ours}down_NFD", f"{theirs}down_proj.weight", "D F", first),
    )


def norm_rows(stack: str, *, first: int = 0) -> tuple[Tensor, ...]:
    """The norms before attention and before the feed-forward layer."""
    return (
        Tensor(f"{stack}.attention_norm.scale_ND", "model.layers.{N}.input_layernorm.weight", "D", first),
        Tensor(f"{stack}.feed_forward_norm.scale_ND", "model.layers.{N}.post_attention_layernorm.weight", "D", first),
    )
