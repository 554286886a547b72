"""daft's own text kernels, called on one batch in this process: no query, no scheduler, so that any worker
can use them.
"""

import numpy as np
import pyarrow as pa


def minhash(texts: list[str], *, n_permutations: int, shingle_words: int, seed: int) -> np.ndarray:
    """For each permutation the least hash of a text's shingles (runs of words parted by single spaces),
    uint32 [n, n_permutations].

    A text with fewer words than a shingle has one shingle: itself.
    """
    from daft import Series  # half a second: only when documents are hashed

    series = Series.from_arrow(pa.array(texts, pa.large_string()))
    # the hash is named: daft's default may be another one tomorrow
    hashes = series.minhash(n_permutations, shingle_words, seed, "xxhash3_64")
    return hashes.to_arrow().flatten().to_numpy().reshape(len(texts), n_permutations)
