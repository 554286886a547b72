"""Randomness as a function of a key and a number: any process can ask for any part of it, in any order, on
any machine.

Written in integers here rather than drawn from a library's generator, whose stream may change from version
to version.
"""

import numpy as np

from data_pipeline.documents.sampling import key_of

# four rounds make a Feistel network a strong pseudo-random permutation (Luby and Rackoff 1988) if its round
# function is a strong one; ours is a fast hash, so twice as many
ROUNDS = 8


def key_from(*parts: object) -> int:
    """A 64-bit key that stands for `parts`."""
    return int.from_bytes(key_of(*parts))


def bits(key: int, numbers: np.ndarray) -> np.ndarray:
    """uint64 [n]: a hash of each number under a key (SplitMix64; Steele et al. 2014)."""
    # the constants are the paper's; sums and products wrap around at 64 bits, as it wants them to
    x = np.asarray(numbers).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniform(key: int, numbers: np.ndarray) -> np.ndarray:
    """float64 [n] in [0, 1), one for each number."""
    # the upper 53 bits: as many as a float64 holds exactly, so that 1.0 is never reached by rounding
    return (bits(key, numbers) >> np.uint64(11)) * 2.0**-53


class Permutation:
    """A pseudo-random order of 0 … n-1, for n up to 2^62, that is never written down: a Feistel network
    walked until it stays inside n.

    grain's `index_shuffle` does the same below 2^32, but has no inverse, which "when was this document
    seen" needs.
    """

    def __init__(self, n: int, key: int):
        self.n = n

        # the network permutes 0 … 2^width - 1; each half needs a bit at least
        self._width = max(2, (n - 1).bit_length())
        # A key for each round: a Feistel network of equal rounds is weak (slide attacks).
        self._keys = bits(key, np.arange(ROUNDS))

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """What stands at each position; int64 [n]."""
        return self._walk(positions, range(ROUNDS))

    def inverse(self, values: np.ndarray) -> np.ndarray:
        """At which position each value stands; int64 [n]."""
        return self._walk(values, range(ROUNDS - 1, -1, -1))

    def _walk(self, numbers: np.ndarray, rounds: range) -> np.ndarray:
        """Apply the network again to whatever falls outside n (cycle walking; Black and Rogaway 2002)."""
        out = np.array(numbers, np.uint64, ndmin=1)
        # From outside of n a walk might never come in.
        if len(out) and out.max() >= self.n:
            raise IndexError(f"{out.max()} is not in the order of 0 … {self.n - 1}")
        outside = np.arange(len(out))
        # For n ≥ 2 at most half of the network's range is outside n, so that a walk takes at most
        # two steps on average.
        while len(outside):
            out[outside] = self._network(out[outside], rounds)
            outside = outside[out[outside] >= self.n]
        return out.astype(np.int64)

    def _network(self, x: np.ndarray, rounds: range) -> np.ndarray:
        """Each round changes one half of the bits by a hash of the other, the halves in turn: run
        backwards, it undoes itself.
        """
        low = np.uint64(self._width // 2)
        low_mask = (np.uint64(1) << low) - np.uint64(1)
        high_mask = (np.uint64(1) << np.uint64(self._width)) - np.uint64(1) - low_mask
        for i in rounds:
            changed, hashed = (low_mask, high_mask) if i % 2 else (high_mask, low_mask)
            x = x ^ (bits(int(self._keys[i]), x & hashed) & changed)
        return x
