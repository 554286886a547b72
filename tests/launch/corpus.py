"""A small finished data phase, made by the parts that make real ones."""

from pathlib import Path

import numpy as np

from data_pipeline.documents.document import content_id
from data_pipeline.files import write_json
from data_pipeline.shards.record import Record, Sequence
from data_pipeline.shards.shards import Shards, write_shards
from data_pipeline.tokenizers.tokenizer import SentencePiece, Tokenizer

WORDS = "the quick brown fox jumps over lazy dogs while seven wizards mix jugs of dark vodka and judge my big sphinx of quartz".split()


def texts(source: str, n: int) -> list[str]:
    """Different texts of different lengths, with letters outside ASCII and lines; equal calls give equal
    texts.
    """
    rng = np.random.default_rng(sum(source.encode()))
    return [
        f"{source} № {i}:\n" + " ".join(rng.choice(WORDS, 5 + 7 * (i % 6))) + "  é\n"
        for i in range(n)
    ]


def write_corpus(data: Path, sizes: dict[str, int]) -> Tokenizer:
    """`data`/train/NAME with so many documents each, the tokenizer above them, results.json and done.json."""
    model = data / "tokenizer.model"
    SentencePiece(vocab_size=320, model="bpe").train(
        (text for name, n in sizes.items() for text in texts(name, n)), model
    )
    tokenizer = Tokenizer(model)
    for name, n in sizes.items():
        records = [record_of(text, tokenizer) for text in texts(name, n)]
        n_bytes = sum(len(text.encode()) for text in texts(name, n))
        raw = {"part": "0", "file": "", "sha256": "0", "inputs": {f"raw/{name}.txt": "ab" * 32}}
        lineage = {"tokenizer": tokenizer.fingerprint, "text": [raw]}
        write_shards(
            data / "train" / name,
            records,
            source=name,
            n_bytes=n_bytes,
            shard_records=8,
            lineage=lineage,
        )
    contents = {
        f"train/{name}": Shards(data / "train" / name).manifest["content_hash"] for name in sizes
    }
    write_json(data / "done.json", {"tokenizer": tokenizer.fingerprint, "contents": contents})
    dropped = {name: {"too_short": 3, "near_duplicate": 1} for name in sizes}
    fertility = {name: {"bytes_per_token": 2.5, "tokens_per_word": 1.75} for name in sizes}
    write_json(
        data / "results.json",
        {"read": sizes, "dropped": dropped, "kept": {}, "fertility": fertility},
    )
    return tokenizer


def record_of(text: str, tokenizer: Tokenizer) -> Record:
    """A document."""
    tokens = np.array([tokenizer.bos, *tokenizer.encode(text), tokenizer.eos], np.int32)
    return Record(content_id(text), (Sequence(tokens, np.ones(len(tokens), np.uint8)),))
