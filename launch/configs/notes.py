"""A model that writes like you, from a folder of your own texts: `meshwright run notes --set
data.sources.notes.folder=FOLDER`.

FOLDER holds .txt, .md, .rst, .html, .epub, .pdf or .docx files (the last two after `pip install
'meshwright[documents]'`), at least two, better a megabyte. A tenth of the files is held out; docs/corpora.md
says what else may be set. Hardware: any CPU; about 3 minutes on 2 cores. Expect: of 101 manuals (2.8 MB of
text) the held-out bits per byte fall from 5.1 to 2.0; of a small folder the model learns sentences by heart.
"""

from typing import Any

from data_pipeline.clean.dedup import ExactDedup
from data_pipeline.clean.held_out import HeldOutFilter
from data_pipeline.clean.normalise import Normalise
from data_pipeline.component import FrozenMap
from data_pipeline.loader import PackedShards
from data_pipeline.prepare import Prepare
from data_pipeline.readers.texts import Texts
from data_pipeline.tokenizers.tokenizer import SentencePiece
from launch.configs.tiny import LLAMA, SEQ_LEN, optimizer
from trainer.checkpoints.checkpointer import Checkpoints
from trainer.evals.held_out import HeldOut
from trainer.evals.samples import Samples
from trainer.objectives.next_token import NextToken
from trainer.run import Run

NOTES = ("notes",)  # the one source


def notes() -> dict[str, Any]:
    """Two phases: your texts, and a model of them."""
    data = Prepare(
        sources=FrozenMap(notes=Texts(folder="notes")),
        # No rule judges how you write: only characters are repaired, and copies of a file left out.
        recipe=(
            Normalise(sources=NOTES, repair_mojibake=True),
            ExactDedup(sources=NOTES, max_removed_frac=0.9),
        ),
        held_out_frac=0.1,
        held_out_filter=HeldOutFilter(jaccard=0.7, common_groups=8),
        # Small, so that some ten thousand words are enough to learn it from.
        tokenizer=SentencePiece(vocab_size=1024, model="bpe"),
        seed=0,
    )
    pretrain = Run(
        # The model of the quickstart, 2.4 M parameters.
        architecture=LLAMA,
        objective=NextToken(),
        data=rows("train"),
        optimizer=optimizer(peak_lr=0.009, warmup_steps=60),
        steps=600,
        evaluate_every=200,
        checkpoint=Checkpoints(every_steps=200),
        evals=(
            HeldOut(data=rows("held_out"), max_rows=64),
            Samples(prompts=("The", "It is"), chat=False, max_tokens=64),
        ),
    )
    return {"data": data, "pretrain": pretrain}


def rows(side: str) -> PackedShards:
    """Rows of your texts, packed one behind another."""
    weights = FrozenMap(notes=1.0)
    return PackedShards(folder=f"data/{side}", weights=weights, seq_len=SEQ_LEN, batch_size=4)
