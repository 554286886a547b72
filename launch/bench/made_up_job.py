"""A made-up job for benches: a tokenizer, shards of random documents, and a run of a small model on them."""

from pathlib import Path

import numpy as np

from data_pipeline.component import FrozenMap
from data_pipeline.loader import PackedShards
from data_pipeline.shards.record import Record, Sequence
from data_pipeline.shards.shards import write_shards
from data_pipeline.tokenizers.tokenizer import SentencePiece
from model.architectures.llama import Llama
from trainer.checkpoints.retention import Checkpoints
from trainer.objectives.next_token import NextToken
from trainer.optimizer import Optimizer
from trainer.optimizers.adamw import AdamW
from trainer.run import Run
from trainer.schedules import WarmupCosine

# STEPS is far more than any bench runs, so the learning rate hardly changes during one.
VOCAB, SEQ_LEN, DOCUMENTS, STEPS = 512, 128, 2000, 100_000
ARCHITECTURE = Llama(
    vocab_size=VOCAB,
    width=128,
    layers=2,
    heads=4,
    kv_heads=4,
    head_width=32,
    feed_forward_width=384,
    context=SEQ_LEN,
)


def write_data(job_folder: Path) -> None:
    """Write data/tokenizer.model and the shards data/train/web."""
    # The shards hold random tokens, so any text will do for the tokenizer: this file, repeated
    # because once is not enough to fill a vocabulary of 512.
    SentencePiece(vocab_size=VOCAB, model="bpe").train(
        [Path(__file__).read_text()] * 20,
        job_folder / "data/tokenizer.model",
    )
    rng = np.random.default_rng(0)
    # Shorter than a row, so that several documents are packed into one.
    lengths = rng.integers(20, SEQ_LEN, DOCUMENTS)
    records = [
        Record(
            str(i),
            (
                Sequence(
                    rng.integers(20, VOCAB, n).astype(np.int32),
                    # Weights: the first token has nothing before it to be predicted from.
                    (np.arange(n) > 0).astype(np.uint8),
                ),
            ),
        )
        for i, n in enumerate(lengths.tolist())
    ]
    write_shards(
        job_folder / "data/train/web",
        records,
        source="web",
        n_bytes=1,
        shard_records=DOCUMENTS,
        lineage={},
    )


def run_of(batch_size: int, *, steps: int = STEPS) -> Run:
    """The run on those data, which saves at its end alone."""
    return Run(
        architecture=ARCHITECTURE,
        objective=NextToken(),
        data=PackedShards(
            folder="data/train", weights=FrozenMap(web=1.0), seq_len=SEQ_LEN, batch_size=batch_size
        ),
        optimizer=Optimizer(
            rule=AdamW(),
            peak_lr=1e-3,
            schedule=WarmupCosine(warmup_steps=1, end_frac=0.1),
            weight_decay=0.1,
        ),
        steps=steps,
        # Never reached within a bench: the only save of a round is the one at its end.
        checkpoint=Checkpoints(every_steps=STEPS),
    )
