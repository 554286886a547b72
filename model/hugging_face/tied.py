"""Checkpoints whose config ties the output matrix to the embedding while their files hold another one."""

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from model.hugging_face.checkpoint import Checkpoint

OUTPUT = "lm_head.weight"
# with the prefix of a whole model, and without it, as when a model was saved without its head
EMBEDDINGS = ("model.embed_tokens.weight", "transformer.wte.weight", "embed_tokens.weight")
EMBEDDINGS += ("wte.weight",)
ROWS = 4096  # rows of both matrices that are compared at a time


def without_false_tie(config: Mapping[str, Any], checkpoint: Checkpoint) -> dict[str, Any]:
    """The config of a checkpoint, untied if it has an output matrix that differs from the embedding: then
    transformers 5 uses both as they are.
    """
    return {**config, "tie_word_embeddings": False} if has_own_output(checkpoint) else dict(config)


def has_own_output(checkpoint: Checkpoint) -> bool:
    """Whether there is an output matrix with other numbers than the embedding's."""
    shapes = checkpoint.shapes()
    name = next((name for name in EMBEDDINGS if name in shapes), None)
    if OUTPUT not in shapes or name is None:
        return False
    if shapes[OUTPUT] != shapes[name]:
        return True
    with contextlib.ExitStack() as stack:
        # the two may lie in different files
        tensors = {
            wanted: stack.enter_context(file.open())[wanted]
            for file in checkpoint.files
            for wanted in (OUTPUT, name)
            if wanted in file.shapes
        }
        n_rows = shapes[name][0]
        # safetensors refuses a slice that ends behind the last row
        cuts = (slice(i, min(i + ROWS, n_rows)) for i in range(0, n_rows, ROWS))
        # compared as bits are: NaN, of which a damaged file may be full, equals itself
        return not all(
            np.array_equal(_bits(tensors[OUTPUT][cut]), _bits(tensors[name][cut])) for cut in cuts
        )


def _bits(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x).view(np.uint8)
