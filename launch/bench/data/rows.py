"""The stages from clean text to training rows."""

import shutil
from functools import partial
from itertools import batched
from pathlib import Path

import numpy as np
import sentencepiece

from data_pipeline.documents.document import Document
from data_pipeline.rows.fim import FillInTheMiddle
from data_pipeline.rows.pack import BestFit
from data_pipeline.rows.packed import PackedRows
from data_pipeline.rows.sequence import RowSequence
from data_pipeline.shards.record import Record, Sequence
from data_pipeline.shards.shards import write_shards
from data_pipeline.tokenizers.tokenizer import SentencePiece, Tokenizer
from launch.bench.data.sample import Sample, Stage

VOCAB_SIZE = 8192
SEQ_LEN, BATCH = 4096, 16
# Rows of one measurement: 1 M tokens.
N_ROWS = 256
# Documents are repeated, under other ids, until there are at least so many tokens.
LOADED_TOKENS = 4_000_000
N_LENGTHS = 500_000


def row_stages(taken: Sample, folder: Path) -> list[Stage]:
    """Tokenizing, writing, packing and loading, each stage after its bound."""
    model = folder / "tokenizer.model"
    texts = (document.text for document in (*taken.web, *taken.code))
    # A small sample: how a tokenizer was trained hardly changes how fast it encodes.
    SentencePiece(vocab_size=VOCAB_SIZE, model="bpe", sample_mib=4).train(texts, model)
    tokenizer = Tokenizer(model)

    # Enough tokens that the time to open files does not count.
    records = repeated([record_of(document, tokenizer) for document in taken.code], LOADED_TOKENS)
    return [
        *_encoding(taken, tokenizer, model),
        *_writing(records, folder),
        _packing(),
        *_loading(records, tokenizer, folder),
    ]


def record_of(document: Document, tokenizer: Tokenizer) -> Record:
    """A document as the data phase writes it: tokens between <bos> and <eos>, all of them targets."""
    tokens = np.array([tokenizer.bos, *tokenizer.encode(document.text), tokenizer.eos], np.int32)
    return Record(document.id, (Sequence(tokens, np.ones(len(tokens), np.uint8)),))


def repeated(records: list[Record], n_tokens: int) -> list[Record]:
    """The documents again and again under new ids, until there are `n_tokens` or more."""
    # -(-a // b) rounds up.
    n_times = -(-n_tokens // sum(len(record.sequences[0].tokens) for record in records))
    # Ids of 16 hex digits; copies need ids of their own, since a shard holds each once.
    return [record._replace(id=f"{number:016x}") for number, record in enumerate(records * n_times)]


def _encoding(taken: Sample, tokenizer: Tokenizer, model: Path) -> list[Stage]:
    texts = [document.text for document in (*taken.web, *taken.code)]
    some = texts[::8]  # the bound is slow, and its speed on an eighth is the same
    plain = sentencepiece.SentencePieceProcessor(model_file=str(model))
    return [
        Stage(
            "SentencePiece",
            mb_of(some),
            "MB of text",
            lambda: [plain.encode(text) for text in some],
            note="its own encoder",
        ),
        Stage(
            "encode",
            mb_of(texts),
            "MB of text",
            lambda: tokenizer.encode_all(texts),
            "SentencePiece",
        ),
    ]


def mb_of(texts: list[str]) -> float:
    """Megabytes of the texts in UTF-8."""
    return sum(len(text.encode()) for text in texts) / 1e6


def _writing(records: list[Record], folder: Path) -> list[Stage]:
    # 16 bits hold the ids of a vocabulary of 8192, as in the shards.
    tokens = np.concatenate([record.sequences[0].tokens for record in records]).astype(np.uint16)

    def shards() -> None:
        # Every round writes into an empty folder.
        shutil.rmtree(folder / "shards", ignore_errors=True)
        write_shards(
            folder / "shards", records, source="code", n_bytes=0, shard_records=8192, lineage={}
        )

    million = len(tokens) / 1e6
    return [
        Stage(
            "plain write",
            million,
            "M tokens",
            lambda: tokens.tofile(folder / "tokens.bin"),
            note="the same tokens, 16 bits each",
        ),
        Stage("shard writing", million, "M tokens", shards, "plain write"),
    ]


def _packing() -> Stage:
    # Document lengths as in web text: a median of 665 tokens (e**6.5) and a long tail.
    lengths = np.random.default_rng(0).lognormal(6.5, 1.2, N_LENGTHS).astype(np.int64).clip(2)
    # The share of positions that hold tokens: a faster plan that packs worse would be no gain.
    full = lengths.sum() / (len(BestFit().plan(lengths, SEQ_LEN)) * SEQ_LEN)
    note = f"rows of {SEQ_LEN} are {full:.4%} full"
    work = partial(BestFit().plan, lengths, SEQ_LEN)
    return Stage("pack plan", N_LENGTHS / 1e6, "M documents", work, note=note)


def _loading(records: list[Record], tokenizer: Tokenizer, folder: Path) -> list[Stage]:
    shards = folder / "rows"
    write_shards(shards, records, source="code", n_bytes=0, shard_records=8192, lineage={})

    # Of `turned` half of the documents become prefix, suffix and middle while they are read.
    plain = PackedRows(shards, seq_len=SEQ_LEN)
    turned = PackedRows(shards, seq_len=SEQ_LEN, fim=FillInTheMiddle(rate=0.5), tokenizer=tokenizer)
    row = plain[0]
    million = N_ROWS * SEQ_LEN / 1e6

    def copy() -> None:
        for numbers in batched(range(N_ROWS), BATCH):
            for field in row.values():
                # A loader must at least copy its rows into a batch.
                np.stack([field for _ in numbers])

    return [
        Stage("copy of rows", million, "M tokens", copy, note="all fields of a batch, once"),
        Stage("loader", million, "M tokens", lambda: read(plain), "copy of rows"),
        Stage(
            "loader, FIM rate 0.5",
            # An eighth of the rows, because this is slower; the speed is the same.
            million / 8,
            "M tokens",
            lambda: read(turned, N_ROWS // 8),
            "loader",
        ),
    ]


def read(rows: PackedRows, n_rows: int = N_ROWS) -> None:
    """Read the first rows in the shuffled order of training, and stack them to batches."""
    # The order is shuffled, because random access to shards is part of what is measured.
    sequence = RowSequence({"code": rows}, {"code": 1.0}, 0)
    for numbers in batched(range(n_rows), BATCH):
        batch = sequence.read(list(numbers))
        for name in batch[0]:
            np.stack([row[name] for row in batch])
