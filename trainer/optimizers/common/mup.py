"""Maximal update parametrization (Yang et al. 2022, table 8 for Adam): tune narrow models, train wide ones.

What is tuned holds while all inner widths grow together (`width`, `heads`, `feed_forward_width`, latents) and
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
    """Multiply the updates of hidden and output matrices by `base_width` / width; others stay.

    The others are embeddings, norms and biases. It belongs before weight decay, since learning rate times
    decay must not change with the width (Kosson et al. 2025).
    """

    def scaled(updates: Any, _: Any) -> Any:
        # Adam's updates do not shrink with the gradient, so a sum over more inputs would grow
        # with them.
        factor = base_width / _width(updates)

        def scale(path: Any, x: Any) -> Any:
            return x * factor if _sums_over_width(path[-1].key) else x

        return jax.tree.map_with_path(scale, updates)

    return optax.stateless(scaled)


def scaled_at_birth(params: Params, base_width: int) -> Params:
    """New parameters with the standard deviations of table 8.

    That of the output matrix goes as 1 / width, that of embeddings is the same at all widths. Ours begin with
    1 / sqrt(width); hidden matrices begin with 1 / sqrt(fan in), which is right.

    Raises:
        ValueError: the output matrix is the embedding.
    """
    if "unembed_DV" not in params:
        raise ValueError(
            f"optimizer.mup_base_width={base_width} shrinks the updates of the output matrix but not those "
            "of the embedding, and here one matrix is both; set architecture.tied=false"
        )
    # 1 at the base width, where both parametrizations are the same
    growth = math.sqrt(_width(params) / base_width)
    embeddings = {name: x * growth for name, x in params.items() if _is_embedding(name)}
    return {**params, **embeddings, "unembed_DV": params["unembed_DV"] / growth}


def _width(tree: Any) -> int:
    """The size of the letter D, read off a parameter whose last dimension it is (D2 and D3 are latents)."""
    for path, x in jax.tree.leaves_with_path(tree):
        name = path[-1].key
        if name.endswith("D") and letters_of(name):
            return x.shape[-1]
    raise AssertionError("every model has a norm of width D")


def _sums_over_width(name: str) -> bool:
    """Whether a product with it sums over ever more values as the width grows: any matrix but embeddings."""
    # each layer N and expert E has a matrix of its own
    matrix_letters = letters_of(name).lstrip("NE")
    return len(matrix_letters) > 1 and not name.startswith("b") and not _is_embedding(name)


def _is_embedding(name: str) -> bool:
    """Whether it holds a vector for each token or position."""
    return letters_of(name)[:1] in ("V", "T")
