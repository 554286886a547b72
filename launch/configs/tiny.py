"""From raw text to an aligned model on a laptop: `meshwright run tiny`.

Hardware: any CPU; about 12 minutes and 2 GiB on 2 cores with bf16 matrix units; no network.
Expect held-out bits per byte to fall from 4 to 1.65 (documentation), 1.82 (code) and 1.33 (books), 1.60 on
average; SFT to raise the accuracy of answers' tokens from 0.19 to 0.36; DPO to favour the right docstring in
0.75 of the held-out pairs, while the loss of answers rises by 1.1 % (the settings: docs/learning.md).
"""

from typing import Any

from data_pipeline.clean.held_out import HeldOutFilter
from data_pipeline.clean.recipe import standard_recipe
from data_pipeline.component import FrozenMap
from data_pipeline.loader import PackedPairs, PackedShards
from data_pipeline.prepare import Prepare
from data_pipeline.readers.books import Books
from data_pipeline.readers.code_tree import StdlibCode
from data_pipeline.readers.stdlib_docs import StdlibDocs
from data_pipeline.stages.docstring_chats import DocstringChats
from data_pipeline.tokenizers.tokenizer import SentencePiece
from model.architectures.llama import Llama
from trainer.checkpoints.checkpointer import Checkpoints
from trainer.evals.held_out import HeldOut
from trainer.evals.samples import Samples
from trainer.norms import Watch
from trainer.objectives.dpo import DPO
from trainer.objectives.next_token import NextToken
from trainer.optimizer import Optimizer
from trainer.optimizers.muon import Muon
from trainer.run import Run
from trainer.schedules import WarmupLinear

SEQ_LEN, VOCAB_SIZE = 512, 2048
# 2.4 M parameters, small enough to train on a laptop in minutes.
LLAMA = Llama(
    vocab_size=VOCAB_SIZE,
    width=192,
    layers=4,
    heads=3,
    kv_heads=1,  # one key/value head for three query heads: the smallest cache
    head_width=64,
    feed_forward_width=512,
    context=SEQ_LEN,
)


def tiny() -> dict[str, Any]:
    """Four phases: data, pretraining, SFT, DPO."""
    # Web pages, code and books, cleaned and tokenized; questions and preference pairs from docstrings.
    data = Prepare(
        sources=FrozenMap(web=StdlibDocs(), code=StdlibCode(), books=Books()),
        recipe=standard_recipe(),
        held_out_frac=0.05,
        held_out_filter=HeldOutFilter(jaccard=0.7, common_groups=8),
        tokenizer=SentencePiece(vocab_size=VOCAB_SIZE, model="bpe"),
        chats=DocstringChats(source="code", n_chats=20_000, n_pairs=20_000, max_tokens=SEQ_LEN),
        seed=2,  # sets aside 56 KB of web pages, 305 KB of code, 21 KB of books
    )
    return {"data": data, "pretrain": pretrain(), "sft": sft(), "dpo": dpo()}


def pretrain() -> Run:
    """Next tokens of all three corpora."""
    # Shares of the tokens read; the same held out, so that the average of the losses is comparable.
    shares = {"web": 0.3, "code": 0.48, "books": 0.22}
    held_out = HeldOut(data=packed("data/held_out", shares), max_rows=80)
    starts = ("def __init__(self", "The function returns")
    return Run(
        architecture=LLAMA,
        objective=NextToken(),
        data=packed("data/train", shares, batch_size=4),
        optimizer=optimizer(peak_lr=0.009, warmup_steps=100),
        steps=2000,
        evaluate_every=1000,
        checkpoint=Checkpoints(every_steps=100),
        evals=(held_out, Samples(prompts=starts, chat=False, max_tokens=48)),
        watch=Watch(histograms_every=600),  # 0.4 s each
    )


def sft() -> Run:
    """Answers to questions about functions: in these rows a question's tokens have weight 0 in the loss."""
    return Run(
        architecture=LLAMA,
        objective=NextToken(),
        data=packed("data/train", {"chat": 1.0}),
        optimizer=optimizer(peak_lr=3e-3, warmup_steps=10),
        start_from="pretrain",  # with the newest checkpoint of that phase
        steps=150,
        checkpoint=Checkpoints(every_steps=50),
        evals=answers(),
    )


def dpo() -> Run:
    """The right docstring before a plausible wrong one, and still a likely text."""
    return Run(
        architecture=LLAMA,
        # beta 0.1 is the paper's (Rafailov et al. 2023); sft_weight keeps the chosen text likely,
        # which DPO alone lets fall while the margin grows.
        objective=DPO(beta=0.1, sft_weight=1.0),
        data=pairs("data/train"),
        optimizer=optimizer(peak_lr=7e-4, warmup_steps=10),
        start_from="sft",
        steps=200,
        checkpoint=Checkpoints(every_steps=50),
        evals=(HeldOut(data=pairs("data/held_out")), *answers()),
    )


def packed(folder: str, weights: dict[str, float], *, batch_size: int = 8) -> PackedShards:
    """Documents or chats of a folder of shards, packed into rows; `weights` are the sources' shares."""
    weights = FrozenMap(weights)
    return PackedShards(folder=folder, weights=weights, seq_len=SEQ_LEN, batch_size=batch_size)


def pairs(folder: str) -> PackedPairs:
    """Preference pairs of a folder of shards."""
    # A pair is two sequences, so a row must have a fixed number of them for XLA's fixed shapes.
    return PackedPairs(
        folder=folder, weights=FrozenMap(pairs=1.0), seq_len=SEQ_LEN, batch_size=8, pairs_per_row=8
    )


def answers() -> tuple[HeldOut, Samples]:
    """What SFT teaches and preferences must not spoil: the loss of held-out answers, and some answers."""
    # Of functions that most readers know, so that a person can judge.
    questions = (
        "What does `pathlib.Path.exists(self)` do?",
        "Explain `shutil.copyfile(src, dst, *, follow_symlinks=True)`.",
    )
    held_out = HeldOut(data=packed("data/held_out", {"chat": 1.0}), objective=NextToken())
    return held_out, Samples(prompts=questions, chat=True, max_tokens=48)


def optimizer(*, peak_lr: float, warmup_steps: int) -> Optimizer:
    """Muon with a straight line down to zero."""
    # The authors' own precision: on a CPU with bf16 matrix units the iteration costs less than half.
    rule = Muon(products="bfloat16")
    schedule = WarmupLinear(warmup_steps=warmup_steps, end_frac=0.0)
    return Optimizer(rule=rule, peak_lr=peak_lr, schedule=schedule, weight_decay=0.1)
