"""A sample that depends on what is in a collection, never on the order or the number of processes it
arrives by.
"""

import hashlib
import heapq
from collections.abc import Iterable


def key_of(*parts: object) -> bytes:
    """Eight bytes that stand for `parts`, the same on every machine."""
    return hashlib.blake2b("\0".join(map(str, parts)).encode(errors="surrogatepass"), digest_size=8).digest()


def first_by_key[T](items: Iterable[tuple[bytes, int, T]], limit: int | float) -> list[T]:
    """Of (key, size, item) the items of the smallest keys, by key, as long as their sizes sum to at most
    `limit`.

    One pass; holds no more than the sample and one item.
    """
    kept: list[tuple[int, int, int, T]] = []  # a heap with the largest key on top
    total, cut = (
        0,
        1 << 64,
    )  # everything from `cut` on is out, else a small item would slip in behind a large one
    for number, (key, size, item) in enumerate(items):
        rank = int.from_bytes(key)
        if rank >= cut:
            continue
        heapq.heappush(kept, (-rank, number, size, item))
        total += size
        while total > limit:
            negative, _, removed, _ = heapq.heappop(kept)
            total, cut = total - removed, -negative
    return [item for *_, item in sorted(kept, key=lambda entry: -entry[0])]
