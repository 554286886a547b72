"""The contract between data and trainer: what one global batch holds. A field's last letters are its shape
and its layout.
"""

from typing import Any, NamedTuple

Array = Any  # numpy on the host, jax.Array once the trainer has laid it out


class TokenBatch(NamedTuple):
    """Packed rows for next-token prediction; pretraining and SFT differ only in `weight_BL`.

    Shifted on the host: `targets_BL[b, l]` is the token after `tokens_BL[b, l]` in the same document,
    `weight_BL[b, l]` weights that target (0 = not a target). `segments_BL` numbers the documents of a row
    from 1; 0 is padding. `positions_BL` restart with every segment. `source_BL` is the index of the
    document's source in the mixture.
    """

    tokens_BL: Array
    targets_BL: Array
    weight_BL: Array
    positions_BL: Array
    segments_BL: Array
    source_BL: Array


class PreferenceBatch(NamedTuple):
    """Packed preference pairs: pair slot p of a row has its chosen answer in segment 2p+1 and its rejected
    one in 2p+2.

    `weight_BL` is 1 on answer tokens; `pair_weight_BP` is 1 where the slot holds a pair. `reference_*_BP`
    are the reference model's summed log-probabilities (nats) of the answers, computed once before the phase
    starts.
    """

    tokens_BL: Array
    targets_BL: Array
    weight_BL: Array
    positions_BL: Array
    segments_BL: Array
    pair_weight_BP: Array
    reference_chosen_BP: Array
    reference_rejected_BP: Array
