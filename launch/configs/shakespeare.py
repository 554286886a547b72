"""nanoGPT's smallest recipe, letters of Shakespeare on a CPU: `meshwright run shakespeare`.

Karpathy's README: 4 layers, 4 heads, width 128, 64 letters of context, batches of 12 rows, 2,000 steps;
validation loss 1.88. Ours is the same but for how weights start (variance 1 / fan in, his 0.02), rows
that are cut once and dealt anew each epoch (his begin anywhere), and GPT-2's biases, which he leaves out.
Hardware: any CPU. Expect: a held-out loss of 1.80 nats a letter over the whole last tenth of the text;
docs/learning.md has the figures.
"""

from pathlib import Path
from typing import Any

from data_pipeline.clean.held_out import HeldOutFilter
from data_pipeline.component import FrozenMap
from data_pipeline.loader import PackedShards
from data_pipeline.prepare import Prepare
from data_pipeline.readers.text_file import TextFile
from data_pipeline.rows.pack import ConcatenateAndSplit
from data_pipeline.tokenizers.tokenizer import SentencePiece
from model.architectures.gpt2 import GPT2
from model.execution import Precision
from trainer.checkpoints.checkpointer import Checkpoints
from trainer.evals.held_out import HeldOut
from trainer.objectives.next_token import NextToken
from trainer.optimizer import Optimizer
from trainer.optimizers.adamw import AdamW
from trainer.run import Run
from trainer.schedules import WarmupCosine

CONTEXT, BATCH_SIZE, STEPS = 64, 12, 2000
VOCAB_SIZE = 334  # 65 letters, 13 control pieces, 256 bytes for the letters of other texts
# the plays that char-rnn learned, in the public domain
TEXT = Path(__file__).with_name("tinyshakespeare.txt.gz")


def shakespeare() -> dict[str, Any]:
    """Two phases: the text, and pretraining on its letters."""
    return {"data": data(), "pretrain": pretrain()}


def data() -> Prepare:
    """Nine tenths to train on, and the last tenth, cut at the same letter as nanoGPT's, held out."""
    return Prepare(
        # Ten pieces of equal length, so that setting one aside holds out exactly a tenth.
        sources=FrozenMap(plays=TextFile(path=str(TEXT), pieces=10)),
        recipe=(),
        held_out_frac=0.1,
        # 1.0: only exact copies of held-out text are removed from the training side.
        held_out_filter=HeldOutFilter(jaccard=1.0, common_groups=10),
        # Coverage 1.0 keeps every letter; the default drops the rarest 0.05 %.
        tokenizer=SentencePiece(vocab_size=VOCAB_SIZE, model="char", character_coverage=1.0),
        seed=10,  # the seed that holds out the last piece, as nanoGPT does
    )


def rows(side: str, *, batch_size: int) -> PackedShards:
    """Rows of letters, cut from the text without regard to its lines."""
    sizes = {"seq_len": CONTEXT, "batch_size": batch_size, "packing": ConcatenateAndSplit()}
    return PackedShards(folder=f"data/{side}", weights=FrozenMap(plays=1.0), **sizes)


def pretrain() -> Run:
    """Next letters, by nanoGPT's model and settings."""
    return Run(
        architecture=GPT2(
            vocab_size=VOCAB_SIZE,
            width=128,
            layers=4,
            heads=4,
            feed_forward_width=512,
            context=CONTEXT,
        ),
        objective=NextToken(),
        data=rows("train", batch_size=BATCH_SIZE),
        optimizer=Optimizer(
            # nanoGPT's: with 768 tokens a step the second moment is averaged over more steps.
            rule=AdamW(b2=0.99),
            peak_lr=1e-3,
            schedule=WarmupCosine(warmup_steps=100, end_frac=0.1),
            weight_decay=0.1,
        ),
        # As nanoGPT on a CPU, where it does not use bfloat16.
        precision=Precision(compute="float32"),
        steps=STEPS,
        checkpoint=Checkpoints(every_steps=STEPS),
        # Evaluation keeps no activations for a backward pass, so its batch can be larger.
        evals=(HeldOut(data=rows("held_out", batch_size=64)),),
    )
