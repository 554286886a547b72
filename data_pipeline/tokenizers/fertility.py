"""How well a tokenizer fits each source: what an id stands for, in bytes and in words."""

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import batched

from data_pipeline.tokenizers.tokenizer import Tokenizer

BATCH = 64  # texts at a time: a source may be larger than memory


def fertility(
    tokenizer: Tokenizer,
    sources: Mapping[str, Iterable[str]],
) -> dict[str, dict[str, int | float]]:
    """Source → documents, bytes, words and tokens, with bytes per token (more is shorter) and tokens per
    word (Rust et al. 2021, §3.2).

    A word is what stands between white space, which says little about scripts that write none. Ratios of a
    source without text are 0.
    """
    return {source: _measure(tokenizer, texts) for source, texts in sources.items()}


def _measure(tokenizer: Tokenizer, texts: Iterable[str]) -> dict[str, int | float]:
    # a Counter, so that a source without text has zeros
    n: Counter[str] = Counter(documents=0, bytes=0, words=0, tokens=0)
    for batch in batched(texts, BATCH):
        for text, ids in zip(batch, tokenizer.encode_all(batch), strict=True):
            n["documents"] += 1
            n["bytes"] += len(text.encode())
            n["words"] += len(text.split())
            n["tokens"] += len(ids)
    return {
        **n,
        "bytes_per_token": n["bytes"] / max(1, n["tokens"]),
        "tokens_per_word": n["tokens"] / max(1, n["words"]),
    }
