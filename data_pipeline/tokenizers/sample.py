"""The text that a vocabulary is learned from: a sample that does not depend on the order in which texts
arrive.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import cycle

from data_pipeline.documents.sampling import first_by_key, key_of

# Texts are sampled in units of this size, so that a sample comes from many texts.
UNIT_CHARS = 1 << 12
MAX_UNIT_BYTES = 4 * UNIT_CHARS  # a letter has at most 4 bytes of UTF-8


def sample(texts: Iterable[str], sample_mib: int | float | None) -> list[str]:
    """Units of text, in the order of their hashes, as many as fit into `sample_mib`: a function of the set
    of texts alone.
    """
    return _units(texts, math.inf if sample_mib is None else sample_mib * 2**20)


def weighted_sample(
    sources: Mapping[str, Iterable[str]],
    weights: Mapping[str, float],
    sample_mib: int | float | None,
) -> list[str]:
    """Units of text of which each source makes up its weight's share in bytes; one too small for its share
    comes again, as in the mixture.

    A function of the sets of texts and the weights alone; without `sample_mib` as large as all the text
    together.

    Raises:
        ValueError: the weights name other sources than there are, or are no weights; a source with a weight
        is empty.
    """
    if (
        set(weights) != set(sources)
        or min(weights.values(), default=0) < 0
        or not sum(weights.values())
    ):
        given = ", ".join(f"{name}={weight:g}" for name, weight in weights.items())
        rule = "must be one a source, none negative and not all zero"
        raise ValueError(f"tokenizer weights ({given}) {rule}; sources: {', '.join(sources)}")
    # sorted, so that the order in which sources are written down changes nothing
    share = {
        name: weights[name] / sum(weights.values()) for name in sorted(sources) if weights[name]
    }
    limit = math.inf if sample_mib is None else sample_mib * 2**20
    # one unit more than the share, whose last one is cut
    units = {name: _units(sources[name], limit * share[name] + MAX_UNIT_BYTES) for name in share}
    if empty := [name for name, texts in units.items() if not texts]:
        remedy = "set its weight to 0 or check the source"
        raise ValueError(f"source {empty[0]!r} has no text to train the tokenizer on; {remedy}")
    total = limit
    if sample_mib is None:
        total = sum(_n_bytes(unit) for texts in units.values() for unit in texts)
    return [part for name in share for part in _filled(units[name], round(total * share[name]))]


def _units(texts: Iterable[str], n_bytes: float) -> list[str]:
    """Units in the order of their hashes, as many as fit into `n_bytes`."""
    units = (
        text[start : start + UNIT_CHARS]
        for text in texts
        for start in range(0, len(text), UNIT_CHARS)
    )
    return first_by_key(((key_of(unit), _n_bytes(unit), unit) for unit in units), n_bytes)


def _n_bytes(text: str) -> int:
    # a lone surrogate is refused where the text is encoded, not where it is counted
    return len(text.encode(errors="surrogatepass"))


def _filled(units: Sequence[str], n_bytes: int) -> Iterator[str]:
    """`units` again and again until there are `n_bytes` of them; the last one is cut."""
    for unit in cycle(units):
        data = unit.encode(errors="surrogatepass")
        if len(data) >= n_bytes:
            yield data[:n_bytes].decode(errors="ignore")
            return
        n_bytes -= len(data)
        yield unit
