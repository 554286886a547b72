"""Encoded patches of images and frames of sounds in packed rows: they move with their documents."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Patches(NamedTuple):
    """What an encoder made of a document's images: patch j stands at position `slot_J[j]` of the document."""

    features_JW: Float[np.ndarray, "J W"]
    slot_J: Int[np.ndarray, "J"]


class PatchPiece(NamedTuple):
    """Positions [start, start + n) of a document with these patches, laid from position `at` of a row on."""

    patches: Patches
    start: int
    n: int
    at: int


def pack_patches(pieces: Sequence[PatchPiece], *, J: int, W: int) -> Patches:
    """The patches of a row of several documents, with slots counted in the row; J of them, unused ones with
    slot -1 and features of 0.

    A patch whose position the piece does not hold (a long document is cut into windows) is left out.

    Raises:
        ValueError: the row has more than J patches.
    """
    features_JW = np.zeros((J, W), np.float32)
    slot_J = np.full(J, -1, np.int32)
    n_used = 0
    for patches, start, n, at in pieces:
        is_held = (patches.slot_J >= start) & (patches.slot_J < start + n)
        stop = n_used + int(is_held.sum())
        if stop > J:
            remedy = "raise it, or pack fewer documents with images into a row"
            raise ValueError(
                f"a row holds at least {stop} patches of images, and media rows have patches={J}; {remedy}"
            )
        features_JW[n_used:stop] = patches.features_JW[is_held]
        # From a position of the document to one of the row.
        slot_J[n_used:stop] = patches.slot_J[is_held] - start + at
        n_used = stop
    return Patches(features_JW, slot_J)
