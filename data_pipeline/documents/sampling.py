"""A sample that depends on what is in a collection, never on the order or the number of processes it
arrives by.
"""

import hashlib
import heapq
from collections.abc import Iterable


def key_of(*parts: object) -> bytes:
    """Eight bytes that stand for `parts`, the same on every machine."""
    # Joined by NUL, so that ("ab", "c") and ("a", "bc") differ.
    text = "\0".join(map(str, parts))
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()


def first_by_key[T](items: Iterable[tuple[bytes, int, T]], limit: int | float) -> list[T]:
    """Of (key, size, item) the items of the smallest keys, by key, as long as their sizes sum to at most
    `limit`.

    One pass; holds no more than the sample and one item.
    """
    # Ranks are negative, because Python's heap has the least on top and the largest key is to be removed.
    sample: list[tuple[int, int, int, T]] = []  # (-rank, number, size, item)
    total = 0
    # Ranks from here on are out. Otherwise a small item could follow a large one that did not fit.
    end = 1 << 64
    for number, (key, size, item) in enumerate(items):
        # Big-endian, so that numbers compare as the bytes do.
        rank = int.from_bytes(key)
        if rank >= end:
            continue
        heapq.heappush(sample, (-rank, number, size, item))
        total += size
        while total > limit:
            negative_rank, _, removed_size, _ = heapq.heappop(sample)
            total -= removed_size
            end = -negative_rank
    # A heap is only partly in order; the sample must not depend on how it was built.
    by_key = sorted(sample, key=lambda entry: -entry[0])
    return [item for *_, item in by_key]
