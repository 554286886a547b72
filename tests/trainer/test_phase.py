"""Laws of a phase before its first step: sizes that do not fit are told by name and in one sentence, before
anything is computed.
"""

import sysconfig
from pathlib import Path

import jax
import pytest

from data_pipeline.loader import PackedShards
from data_pipeline.tokenizers.tokenizer import SentencePiece
from model.architectures.llama import Llama
from tests.examples import ONE_DEVICE, under
from trainer.checkpoints.checkpointer import Checkpoints
from trainer.objectives.next_token import NextToken
from trainer.optimizer import Optimizer
from trainer.optimizers.adamw import AdamW
from trainer.phase import Phase
from trainer.run import Run
from trainer.schedules import WarmupCosine

SIZES = Llama(
    vocab_size=400,
    width=16,
    layers=2,
    heads=4,
    kv_heads=2,
    head_width=6,
    feed_forward_width=24,
    context=32,
)
RUN = Run(
    architecture=SIZES,
    objective=NextToken(),
    data=PackedShards(folder="data/train", weights={"web": 1.0}, seq_len=16, batch_size=8),
    optimizer=Optimizer(
        rule=AdamW(),
        peak_lr=1e-3,
        schedule=WarmupCosine(warmup_steps=2, end_frac=0.1),
        weight_decay=0.1,
    ),
    steps=10,
    checkpoint=Checkpoints(every_steps=5),
)


@pytest.fixture(scope="module")
def job_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    (folder / "data").mkdir()
    text = (Path(sysconfig.get_paths()["stdlib"]) / "heapq.py").read_text()
    SentencePiece(vocab_size=400, model="bpe").train([text], folder / "data" / "tokenizer.model")
    return folder


def phase_of(job_folder: Path, mesh: dict, run: Run = RUN, **sizes: int) -> Phase:
    run = run.model_copy(update={"architecture": SIZES.model_copy(update=sizes)})
    with jax.set_mesh(under(mesh)):
        return Phase(run, job_folder / "pretrain", job_folder, under(mesh))


def test_every_parameter_that_a_mesh_does_not_divide_is_named_with_its_size(job_folder):
    with pytest.raises(
        ValueError,
        match="mesh tensor=2 does not divide H=3 .* of blocks.attention.wq_NDHA; change the mesh",
    ) as error:
        phase_of(job_folder, {"fsdp": 4, "tensor": 2}, heads=3, kv_heads=3, feed_forward_width=25)
    assert "F=25 (feed-forward width) of blocks.feed_forward.w_up_NDF" in str(
        error.value
    ) and "\n" not in str(error.value)


def test_micro_batches_that_do_not_divide_over_the_mesh_name_the_next_multiple(job_folder):
    with pytest.raises(
        ValueError,
        match="data.batch_size=8 does not divide .* 8 devices in 2 micro-batches; choose a multiple of 16",
    ):
        phase_of(job_folder, {"fsdp": 8}, RUN.model_copy(update={"micro_batches": 2}))


def test_a_tokenizer_with_more_entries_than_the_model_is_told_with_both_numbers(job_folder):
    with pytest.raises(
        ValueError,
        match="architecture.vocab_size=200 is less than the 400 entries of .*tokenizer.model; raise it",
    ):
        phase_of(job_folder, ONE_DEVICE, vocab_size=200)


def test_nothing_is_written_before_a_phase_is_known_to_fit(job_folder):
    phase = phase_of(job_folder, {"fsdp": 4, "tensor": 2})
    assert phase.describe() == "Llama of 21,072 parameters, bfloat16, on fsdp=4, tensor=2"
    assert sorted(path.name for path in job_folder.iterdir()) == ["data"]
