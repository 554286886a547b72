"""Which source gives the next row: exact shares in every block, in an order that is a function of (seed, index) alone."""

import zlib
from collections.abc import Mapping
from functools import lru_cache

import numpy as np

BLOCK = 1000  # rows after which every source has had its exact share; also the finest share, 0.1 %


class Mixture:
    """Endless random-access sequence of (source index, how many rows of that source came before).

    Each block of rows holds a fixed number of rows of each source, in an order drawn for that block: nothing is iterated, so any
    position can be asked for at once.
    """

    def __init__(self, weights: Mapping[str, float], seed: int):
        shares = np.array(list(weights.values()), dtype=np.float64)
        exact = shares / shares.sum() * BLOCK
        self.counts = np.floor(exact).astype(np.int64)
        self.counts[np.argsort(self.counts - exact, kind="stable")[: BLOCK - self.counts.sum()]] += 1
        self.seed = seed
        self._block = lru_cache(maxsize=8)(self._draw)

    def _draw(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        generator = np.random.Generator(np.random.Philox(key=zlib.crc32(b"mixture") + (self.seed << 32), counter=[0, 0, 0, block]))
        source = generator.permutation(np.repeat(np.arange(len(self.counts)), self.counts))
        before = np.zeros(BLOCK, dtype=np.int64)
        for s in range(len(self.counts)):
            mine = source == s
            before[mine] = np.arange(mine.sum())
        return source, before

    def __getitem__(self, index: int) -> tuple[int, int]:
        block, slot = divmod(index, BLOCK)
        source, before = self._block(block)
        return int(source[slot]), int(block * self.counts[source[slot]] + before[slot])
