"""Maximal update parametrization, muP (Yang et al. 2022, table 3 for Adam): tune narrow, train wide.

Hyperparameters transfer while all inner widths grow together (`width`, `heads`, `feed_forward_width`,
latents) and `head_width` stays: scores are divided by its root, and muP would divide by itself if it grew. At
`base_width` nothing differs from the standard parametrization.
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
        # Adam's updates are as large whatever the gradient's size, so their effect on a product would grow
        # with the number of inputs that it sums over.
        factor = base_width / _width(updates)

        def scale(path: Any, x: Any) -> Any:
            return x * factor if _sums_over_width(path[-1].key) else x

        return jax.tree.map_with_path(scale, updates)

    return optax.stateless(scaled)


def scaled_at_birth(params: Params, base_width: int) -> Params:
    """Newly drawn parameters, rescaled to the standard deviations of table 3.

    They are 1 / width for the output matrix and constant for embeddings, both of which our `init` draws with
    1 / sqrt(width); hidden matrices are drawn with 1 / sqrt(fan in), as in the table.

    Raises:
        ValueError: the output matrix is the embedding.
    """
    if "unembed_DV" not in params:
        raise ValueError(
            f"optimizer.mup_base_width={base_width} shrinks the updates of the output matrix but not those "
            "of the embedding, and here one matrix is both; set architecture.tied=false"
        )
    # 1 at the base width, where both parametrizations agree
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
    """Whether products with a parameter sum over a number of inputs that grows with the width.

    These are all matrices but embeddings.
    """
    # letters of a single layer's (N) and expert's (E) matrix
    matrix_letters = letters_of(name).lstrip("NE")
    return len(matrix_letters) > 1 and not name.startswith("b") and not _is_embedding(name)


def _is_embedding(name: str) -> bool:
    """Whether a parameter holds a vector for each token or position."""
    return letters_of(name)[:1] in ("V", "T")
