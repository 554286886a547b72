"""Does cleaning pay? `meshwright run clean_or_raw`: one small model trained on pages as they are, and on the
same pages cleaned.

It reads `corpora/web` (WARC files of HTML pages; `--set clean.sources.web.paths='[crawl/]' --set
raw.sources.web.paths='[crawl/]'` for others). Both models see equally many tokens of one tokenizer and are
asked about the same clean held-out pages, which neither has seen.
Hardware: any CPU; 6 minutes on 2 cores. Expect: fewer held-out bits per byte after the clean corpus;
docs/corpora.md has figures.
"""

from typing import Any

from data_pipeline.clean.held_out import HeldOutFilter
from data_pipeline.clean.recipe import web_recipe
from data_pipeline.component import FrozenMap
from data_pipeline.loader import PackedShards
from data_pipeline.prepare import Prepare
from data_pipeline.readers.warc import Warc
from data_pipeline.tokenizers.tokenizer import SentencePiece
from data_pipeline.tokenizers.trained import TrainedTokenizer
from model.architectures.llama import Llama
from trainer.checkpoints.checkpointer import Checkpoints
from trainer.evals.held_out import HeldOut
from trainer.objectives.next_token import NextToken
from trainer.optimizer import Optimizer
from trainer.optimizers.adamw import AdamW
from trainer.run import Run
from trainer.schedules import WarmupCosine

STEPS, BATCH_SIZE, SEQ_LEN, VOCAB_SIZE = 300, 16, 256, 4096


def clean_or_raw() -> dict[str, Any]:
    """Two corpora, and a model of each."""
    split = {
        "held_out_frac": 0.02,
        # Near-duplicates of held-out pages in the training set would let the model recite them.
        "held_out_filter": HeldOutFilter(jaccard=0.7, common_groups=8),
        "seed": 0,
    }
    cleaned = Prepare(
        sources=FrozenMap(web=Warc(paths=("corpora/web",))),
        recipe=web_recipe(sources=("web",)),
        tokenizer=SentencePiece(vocab_size=VOCAB_SIZE, model="bpe"),
        **split,
    )

    # No rules, and all text of a page ("all") instead of its main part.
    raw = Prepare(
        sources=FrozenMap(web=Warc(paths=("corpora/web",), content="all")),
        recipe=(),
        # The same tokenizer, so that the losses per token can be compared.
        tokenizer=TrainedTokenizer(path="runs/clean_or_raw/clean/tokenizer.model"),
        **split,
    )
    return {"clean": cleaned, "raw": raw, "on_clean": on("clean"), "on_raw": on("raw")}


def on(corpus: str) -> Run:
    """A model of 5.1 M parameters on one of the corpora."""
    rows = {"weights": FrozenMap(web=1.0), "seq_len": SEQ_LEN, "batch_size": BATCH_SIZE}
    return Run(
        architecture=Llama(
            vocab_size=VOCAB_SIZE,
            width=256,
            layers=4,
            heads=4,
            kv_heads=2,
            head_width=64,
            feed_forward_width=704,
            context=SEQ_LEN,
        ),
        objective=NextToken(),
        data=PackedShards(folder=f"{corpus}/train", **rows),
        # Paths are relative to the run folder, so this names the tokenizer of the phase `clean`.
        tokenizer="clean/tokenizer.model",
        optimizer=Optimizer(
            rule=AdamW(),
            # Some ten times Llama's 3e-4: the best rate falls with the width of a model.
            peak_lr=4e-3,
            schedule=WarmupCosine(warmup_steps=40, end_frac=0.1),
            weight_decay=0.1,
        ),
        steps=STEPS,
        # Only the final model is compared, so one checkpoint is enough.
        checkpoint=Checkpoints(every_steps=STEPS),
        evals=(HeldOut(data=PackedShards(folder="clean/held_out", **rows)),),
    )
