"""Stage 6: a tokenizer from the clean text of the training side, and how well it fits each source."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import batched
from pathlib import Path
from typing import Any

from data_pipeline import settings
from data_pipeline.documents import corpus
from data_pipeline.files import partial_file, write_bytes
from data_pipeline.stages.text import HELD_OUT, TRAIN, Text
from data_pipeline.tokenizers.tokenizer import Tokenizer

VERSION = 1  # of what this stage makes of the same texts and trainer
MEASURED_CHARS = 4_000_000  # of a source's held-out text: enough for ratios of three digits
BATCH = 64  # texts encoded at a time: a source may be larger than memory


def make_tokenizer(
    trainer: Any,
    texts: Sequence[Text],
    weights: Mapping[str, float] | None,
    stage: Path,
    target: Path,
) -> Tokenizer:
    """Make the tokenizer that the component `trainer` describes as the file `target`, unless it was made
    before.
    """
    # Without held-out text, on which the tokenizer is measured.
    training = [text for text in texts if text.side == TRAIN]
    amounts: dict[str, float] = {}
    for text in training:
        amounts[text.source] = amounts.get(text.source, 0.0) + text.bytes
    shares = dict(weights or amounts)
    made_by = [settings.described(trainer), shares, [text.sha256 for text in training]]
    key = settings.digest([VERSION, *made_by, settings.library_versions()])
    made = stage / f"{key}.model"
    if not made.exists():
        sources = {source: _texts(training, source) for source in shares}
        with partial_file(made, sealed=True) as partial:
            trainer.make(sources, partial, weights=shares)

    # A copy, because another job may replace the target.
    write_bytes(target, made.read_bytes())
    return Tokenizer(target)


def measure(tokenizer: Tokenizer, texts: Sequence[Text]) -> dict[str, dict[str, int | float]]:
    """Source → bytes a token and tokens a word of (the beginning of) its held-out text."""
    held_out = [text for text in texts if text.side == HELD_OUT]
    beginnings = {text.source: _beginning(_texts(held_out, text.source)) for text in held_out}
    return fertility(tokenizer, beginnings)


def fertility(
    tokenizer: Tokenizer,
    sources: Mapping[str, Iterable[str]],
) -> dict[str, dict[str, int | float]]:
    """Source → documents, bytes, words and tokens, with bytes per token (more is shorter) and tokens per
    word (Rust et al. 2021, §3.2).

    A word is what stands between white space, which says little about scripts that write none. Ratios of a
    source without text are 0.
    """
    return {source: _fertility_of(tokenizer, texts) for source, texts in sources.items()}


def _fertility_of(tokenizer: Tokenizer, texts: Iterable[str]) -> dict[str, int | float]:
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


def _texts(texts: Sequence[Text], source: str) -> Iterator[str]:
    for text in texts:
        if text.source == source:
            for document in corpus.read_documents(text.path):
                yield document.text


def _beginning(texts: Iterator[str]) -> Iterator[str]:
    """Texts until `MEASURED_CHARS` are reached."""
    n_chars = 0
    for text in texts:
        if n_chars >= MEASURED_CHARS:
            return
        n_chars += len(text)
        yield text
