"""The contract between data and trainer: what one global batch holds.

A field's annotation says dtype and shape; its letters are the last ones of its name, and its layout.
"""

from typing import Any, NamedTuple, get_type_hints

from jaxtyping import Float32, Int32

Array = Any  # numpy on the host, jax.Array once the trainer has laid it out


class TokenBatch(NamedTuple):
    """Packed rows for next-token prediction; pretraining and SFT differ only in `weight_BL`.

    Shifted on the host: `targets_BL[b, l]` is the token after `tokens_BL[b, l]` in the same document,
    `weight_BL[b, l]` weights that target (0 = not a target). `segments_BL` numbers the documents of a row
    from 1; 0 is padding. `positions_BL` restart with every segment. `source_BL` is the index of the
    document's source in the mixture.
    """

    tokens_BL: Int32[Array, "B L"]
    targets_BL: Int32[Array, "B L"]
    weight_BL: Float32[Array, "B L"]
    positions_BL: Int32[Array, "B L"]
    segments_BL: Int32[Array, "B L"]
    source_BL: Int32[Array, "B L"]


class PreferenceBatch(NamedTuple):
    """Packed preference pairs: pair slot p of a row has its chosen answer in segment 2p+1 and its rejected
    one in 2p+2.

    `weight_BL` is 1 on answer tokens; `pair_weight_BP` is 1 where the slot holds a pair.
    """

    tokens_BL: Int32[Array, "B L"]
    targets_BL: Int32[Array, "B L"]
    weight_BL: Float32[Array, "B L"]
    positions_BL: Int32[Array, "B L"]
    segments_BL: Int32[Array, "B L"]
    pair_weight_BP: Float32[Array, "B P"]


class Field(NamedTuple):
    """What the annotation of a batch's field says."""

    letters: str
    dtype: str

    def shape(self, sizes: dict[str, int]) -> tuple[int, ...]:
        """Its shape where letters have these sizes."""
        return tuple(sizes[letter] for letter in self.letters)


def fields_of(batch_type: type) -> dict[str, Field]:
    """The fields of a batch in order."""
    # Not `__annotations__`, which are strings in a module with postponed annotations.
    hints = get_type_hints(batch_type)
    annotations = {name: hints[name] for name in batch_type._fields}
    return {
        # jaxtyping has the string "B L", and a list of dtypes, of which ours have one.
        name: Field(annotation.dim_str.replace(" ", ""), annotation.dtypes[0])
        for name, annotation in annotations.items()
    }
