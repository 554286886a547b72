"""Name table of DeepSeek-V3."""

from collections.abc import Callable, Sequence
from typing import Any

from model.hugging_face.expert_tables import expert_rows
from model.hugging_face.tables import gated_rows, norm_rows, outer_rows
from model.hugging_face.tensor import Tensor


def rows(sizes: Any) -> tuple[Tensor, ...]:
    """Names and layouts of all tensors."""
    found = [*outer_rows(tied=sizes.tied)]
    for stack, first, feed_forward in (
        ("dense_blocks", 0, gated_rows),
        ("blocks", sizes.dense_layers, _experts(sizes)),
    ):
        if stack == "blocks" or sizes.dense_layers:
            part = _block(sizes, f"{stack}.", "model.layers.{N}.", feed_forward)
            found += [row._replace(first=first) for row in part]
    for depth in range(1, sizes.mtp_layers + 1):
        found += _module(sizes, f"mtp.depth{depth}", mtp_name(sizes, depth))
    return tuple(found)


def mtp_name(sizes: Any, depth: int) -> str:
    """What the names of a prediction module begin with: it stands behind the last layer."""
    return f"model.layers.{sizes.layers + depth - 1}."


def _block(
    sizes: Any, ours: str, theirs: str, feed_forward: Callable[[str, str], Sequence[Tensor]]
) -> list[Tensor]:
    attention = _attention(sizes, f"{ours}attention.", f"{theirs}self_attn.", "N" if "{N}" in theirs else "")
    return [*norm_rows(ours, theirs), *attention, *feed_forward(f"{ours}feed_forward.", f"{theirs}mlp.")]


def _attention(sizes: Any, ours: str, theirs: str, N: str) -> list[Tensor]:
    """Their products join what ours have apart: the two parts of queries, latents and rotary keys, keys and
    values.
    """
    A, A2, A3, D2 = sizes.head_width, sizes.rope_width, sizes.value_width, sizes.latent_width
    turned = {"interleaved": sizes.rope_interleave}
    query, D = ("q_b_proj", "D3") if sizes.query_latent_width else ("q_proj", "D")
    found = [
        Tensor(f"{ours}wq_{N}{D}HA", f"{theirs}{query}.weight", f"HA {D}", span=("A", 0, A + A2)),
        Tensor(
            f"{ours}wq_rope_{N}{D}HA2",
            f"{theirs}{query}.weight",
            f"HA2 {D}",
            span=("A2", A, A + A2),
            **turned,
        ),
        Tensor(
            f"{ours}wkv_down_{N}DD2", f"{theirs}kv_a_proj_with_mqa.weight", "D2 D", span=("D2", 0, D2 + A2)
        ),
        Tensor(
            f"{ours}wk_rope_{N}DA2",
            f"{theirs}kv_a_proj_with_mqa.weight",
            "A2 D",
            span=("A2", D2, D2 + A2),
            **turned,
        ),
        Tensor(f"{ours}kv_norm.scale_{N}D2", f"{theirs}kv_a_layernorm.weight", "D2"),
        Tensor(f"{ours}wk_{N}D2HA", f"{theirs}kv_b_proj.weight", "HA D2", span=("A", 0, A + A3)),
        Tensor(f"{ours}wv_{N}D2HA3", f"{theirs}kv_b_proj.weight", "HA3 D2", span=("A3", A, A + A3)),
        Tensor(f"{ours}wo_{N}HA3D", f"{theirs}o_proj.weight", "D HA3"),
    ]
    if sizes.query_latent_width:
        found.append(Tensor(f"{ours}wq_down_{N}DD3", f"{theirs}q_a_proj.weight", "D3 D"))
        found.append(Tensor(f"{ours}q_norm.scale_{N}D3", f"{theirs}q_a_layernorm.weight", "D3"))
    return found


def _experts(sizes: Any) -> Callable[[str, str], Sequence[Tensor]]:
    def feed_forward(ours: str, theirs: str) -> Sequence[Tensor]:
        bias = Tensor(
            f"{ours}router_bias_{'N' if '{N}' in theirs else ''}E",
            f"{theirs}gate.e_score_correction_bias",
            "E",
        )
        shared = gated_rows(f"{ours}shared.", f"{theirs}shared_experts.") if sizes.shared_experts else ()
        return *expert_rows(ours, theirs), bias, *shared

    return feed_forward


def _module(sizes: Any, ours: str, theirs: str) -> list[Tensor]:
    """A prediction module; checkpoints repeat the model's embedding and output matrix in it."""
    norms = {"embed_norm": "enorm", "hidden_norm": "hnorm", "norm": "shared_head.norm"}
    found = [Tensor(f"{ours}.{one}.scale_D", f"{theirs}{other}.weight", "D") for one, other in norms.items()]
    found += [
        Tensor(f"{ours}.w_{one}_DD2", f"{theirs}eh_proj.weight", "D2 *D", part=(i, 2))
        for i, one in enumerate(("embed", "hidden"))
    ]
    found.append(Tensor("embed_VD", f"{theirs}embed_tokens.weight", "V D"))
    head = Tensor("embed_VD" if sizes.tied else "unembed_DV", f"{theirs}shared_head.head.weight", "V D")
    return [*found, head, *_block(sizes, f"{ours}.block.", theirs, _experts(sizes))]
