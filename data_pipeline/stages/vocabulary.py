"""Stage 6: a tokenizer from the clean text of the training side, and how well it fits each source."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipeline import settings
from data_pipeline.documents import corpus
from data_pipeline.files import write_bytes
from data_pipeline.stages.text import HELD_OUT, TRAIN, Text
from data_pipeline.tokenizers.fertility import fertility
from data_pipeline.tokenizers.tokenizer import Tokenizer

VERSION = 1  # of what this stage makes of the same texts and trainer
MEASURED_CHARS = 4_000_000  # of a source's held-out text: enough for ratios of three digits


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
    # held-out text must not shape the vocabulary it is measured with
    training = [text for text in texts if text.side == TRAIN]
    amounts: dict[str, float] = {}
    for text in training:
        amounts[text.source] = amounts.get(text.source, 0.0) + text.bytes
    shares = dict(weights or amounts)
    made_by = [settings.described(trainer), shares, [text.sha256 for text in training]]
    key = settings.digest([VERSION, *made_by, settings.library_versions()])
    made = stage / f"{key}.model"
    if not made.exists():
        trainer.make({source: _texts(training, source) for source in shares}, made, weights=shares)

    # a copy: the target is what the shards name, and a later job may make another one of it
    write_bytes(target, made.read_bytes())
    return Tokenizer(target)


def measure(tokenizer: Tokenizer, texts: Sequence[Text]) -> dict[str, dict[str, int | float]]:
    """Source → bytes a token and tokens a word of (the beginning of) its held-out text."""
    held_out = [text for text in texts if text.side == HELD_OUT]
    beginnings = {text.source: _beginning(_texts(held_out, text.source)) for text in held_out}
    return fertility(tokenizer, beginnings)


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
