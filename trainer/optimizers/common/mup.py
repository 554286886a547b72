"""Maximal update parametrization (Yang et al. 2022, table 8 for Adam): what is tuned on a narrow model
holds for a wide one.

It holds while all inner widths grow together (`width`, `heads`, `feed_forward_width`, latents) and
`head_width` stays: scores are divided by its root. At `base_width` nothing differs from the standard
parametrization (appendix B.1 there).
"""

import math
from typing import Any

import jax
import optax

from model.api import Params
from model.sharding import letters_of


def scale_by_width(base_width: int) -> optax.GradientTransformation:
    """Multiply the updates of hidden and output matrices by `base_width` / width; those of embeddings,
    norms and biases stay.

    It belongs in front of weight decay, since learning rate times decay must not change with the width
    (Kosson et al. 2025).
    """

    def scaled(updates: Any, _: Any) -> Any:
        factor = base_width / _width(updates)
        return jax.tree.map_with_path(
            lambda path, x: x * factor if _sums_over_width(path[-1].key) else x, updates
        )

    return optax.stateless(scaled)


def scaled_at_birth(params: Params, base_width: int) -> Params:
    """New parameters as they are wanted: the output matrix with a standard deviation ~ 1 / width,
    embeddings with the same at all widths.

    They come with 1 / sqrt(width), and hidden matrices with 1 / sqrt(fan in), which is right for these.

    Raises:
        ValueError: the output matrix is the embedding.
    """
    if "unembed_DV" not in params:
        raise ValueError(
            f"optimizer.mup_base_width={base_width} shrinks the updates of the output matrix but not those of the embedding, and here one "
            "matrix is both; set architecture.tied=false"
        )
    growth = math.sqrt(_width(params) / base_width)
    embeddings = {name: x * growth for name, x in params.items() if _is_embedding(name)}
    return {**params, **embeddings, "unembed_DV": params["unembed_DV"] / growth}


def _width(tree: Any) -> int:
    """Size of the letter D; D2, D3 are latents."""
    leaves = ((path[-1].key, x) for path, x in jax.tree.leaves_with_path(tree))
    return next(x.shape[-1] for name, x in leaves if name.endswith("D") and letters_of(name))


def _sums_over_width(name: str) -> bool:
    """Whether it is a matrix whose product sums over ever more values; layers N and experts E have a matrix
    each.
    """
    return len(letters_of(name).lstrip("NE")) > 1 and not name.startswith("b") and not _is_embedding(name)


def _is_embedding(name: str) -> bool:
    """A vector for each token or position."""
    return letters_of(name)[:1] in ("V", "T")
