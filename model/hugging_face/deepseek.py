"""DeepSeek-V3 at Hugging Face: names of its tensors, and checkpoints that lack the prediction modules."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from model.hugging_face.names import expert_rows, gated_rows, norm_rows, outer_rows
from model.hugging_face.tensor import Tensor

# (prefix of our names, prefix of theirs) → the rows of a feed-forward layer
FeedForwardRows = Callable[[str, str], Sequence[Tensor]]


def without_missing_modules(
    config: Mapping[str, Any],
    names: Collection[str],
) -> dict[str, Any]:
    """The config of a checkpoint with tensors `names`; the number of prediction modules is 0 if it has none.

    When transformers saves, it keeps their number in config.json but drops their tensors.
    """
    first_module = f"model.layers.{config.get('num_hidden_layers')}."
    if any(name.startswith(first_module) for name in names):
        return dict(config)
    modules = {"num_nextn_predict_layers", "num_mtp_layers"} & config.keys()
    return {**config, **dict.fromkeys(modules, 0)}


def rows(sizes: Any) -> tuple[Tensor, ...]:
    """Names and layouts of all tensors.

    Prediction modules are layers after the last one, as in the authors' checkpoints; transformers ignores
    them.
    """
    tensors = [*outer_rows(tied=sizes.tied)]
    if sizes.dense_layers:
        tensors += _block(sizes, "dense_blocks.", "model.layers.{N}.", gated_rows)
    sparse = _block(sizes, "blocks.", "model.layers.{N}.", _experts(sizes))
    # they number all layers, we number each stack from 0
    tensors += [row._replace(first=sizes.dense_layers) for row in sparse]
    for depth in range(1, sizes.mtp_layers + 1):
        tensors += _module(sizes, f"mtp.depth{depth}", f"model.layers.{sizes.layers + depth - 1}.")
    return tuple(tensors)


def _block(
    sizes: Any,
    ours: str,
    theirs: str,
    feed_forward: FeedForwardRows,
) -> list[Tensor]:
    stacked = "N" if "{N}" in theirs else ""  # a prediction module is a single layer
    attention = _attention(sizes, f"{ours}attention.", f"{theirs}self_attn.", stacked)
    return [
        *norm_rows(ours, theirs),
        *attention,
        *feed_forward(f"{ours}feed_forward.", f"{theirs}mlp."),
    ]


def _attention(sizes: Any, ours: str, theirs: str, N: str) -> list[Tensor]:
    """Three of their matrices fuse what we keep separate: both parts of queries, latents with rotary keys,
    and keys with values. A `span` gives the entries of theirs that are ours.
    """
    A = sizes.head_width
    A2 = sizes.rope_width
    A3 = sizes.value_width
    D2 = sizes.latent_width
    queries = f"{theirs}q_b_proj.weight" if sizes.query_latent_width else f"{theirs}q_proj.weight"
    # queries are computed from a latent, or from the residual stream
    D = "D3" if sizes.query_latent_width else "D"
    latents = f"{theirs}kv_a_proj_with_mqa.weight"
    keys_and_values = f"{theirs}kv_b_proj.weight"
    # the authors store rotary pairs as neighbours; transformers may have saved them in halves
    rotated = {"interleaved": sizes.rope_interleave}
    tensors = [
        Tensor(f"{ours}wq_{N}{D}HA", queries, f"HA {D}", span=("A", 0, A + A2)),
        Tensor(f"{ours}wq_rope_{N}{D}HA2", queries, f"HA2 {D}", span=("A2", A, A + A2), **rotated),
        Tensor(f"{ours}wkv_down_{N}DD2", latents, "D2 D", span=("D2", 0, D2 + A2)),
        Tensor(f"{ours}wk_rope_{N}DA2", latents, "A2 D", span=("A2", D2, D2 + A2), **rotated),
        Tensor(f"{ours}kv_norm.scale_{N}D2", f"{theirs}kv_a_layernorm.weight", "D2"),
        Tensor(f"{ours}wk_{N}D2HA", keys_and_values, "HA D2", span=("A", 0, A + A3)),
        Tensor(f"{ours}wv_{N}D2HA3", keys_and_values, "HA3 D2", span=("A3", A, A + A3)),
        Tensor(f"{ours}wo_{N}HA3D", f"{theirs}o_proj.weight", "D HA3"),
    ]
    if sizes.query_latent_width:  # the family's small sizes have queries without a latent
        tensors.append(Tensor(f"{ours}wq_down_{N}DD3", f"{theirs}q_a_proj.weight", "D3 D"))
        tensors.append(Tensor(f"{ours}q_norm.scale_{N}D3", f"{theirs}q_a_layernorm.weight", "D3"))
    return tensors


def _experts(sizes: Any) -> FeedForwardRows:
    def feed_forward(ours: str, theirs: str) -> Sequence[Tensor]:
        N = "N" if "{N}" in theirs else ""
        bias = Tensor(f"{ours}router_bias_{N}E", f"{theirs}gate.e_score_correction_bias", "E")
        shared = (
            gated_rows(f"{ours}shared.", f"{theirs}shared_experts.") if sizes.shared_experts else ()
        )
        return *expert_rows(ours, theirs), bias, *shared

    return feed_forward


def _module(sizes: Any, ours: str, theirs: str) -> list[Tensor]:
    """The tensors of a prediction module, in which checkpoints repeat the embedding and output matrix."""
    joined = f"{theirs}eh_proj.weight"  # [D, 2 D]: the embedding's half, then the hidden state's
    output = "embed_VD" if sizes.tied else "unembed_DV"
    return [
        Tensor(f"{ours}.embed_norm.scale_D", f"{theirs}enorm.weight", "D"),
        Tensor(f"{ours}.hidden_norm.scale_D", f"{theirs}hnorm.weight", "D"),
        Tensor(f"{ours}.norm.scale_D", f"{theirs}shared_head.norm.weight", "D"),
        Tensor(f"{ours}.w_embed_DD2", joined, "D2 *D", part=(0, 2)),
        Tensor(f"{ours}.w_hidden_DD2", joined, "D2 *D", part=(1, 2)),
        # copies of parameters of the model: read a second time, and written a second time
        Tensor("embed_VD", f"{theirs}embed_tokens.weight", "V D"),
        Tensor(output, f"{theirs}shared_head.head.weight", "V D"),
        *_block(sizes, f"{ours}.block.", theirs, _experts(sizes)),
    ]
