"""nanoGPT's recipe on Shakespeare: the same split, sizes and number of letters; the loss over the whole
held-out text.
"""

import gzip
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from data_pipeline.shards.shards import Shards
from data_pipeline.tokenizers.tokenizer import Tokenizer
from launch.configs.shakespeare import TEXT, VOCAB_SIZE
from launch.configs.shakespeare import pretrain as shakespeare_run
from launch.configs.shakespeare_llama import pretrain as llama_run
from model.execution import Precision
from model.mesh import make_mesh
from model.size import n_params
from tests.launch.command import AS_USERS, meshwright

PUBLISHED = 1.88  # nats a letter, by nanoGPT's README


def run(config: str, folder: Path, *settings: str, timeout_s: float) -> dict:
    """What the command wrote of its training phase."""
    folder.mkdir(exist_ok=True)
    done = meshwright(
        "run",
        config,
        *(word for setting in settings for word in ("--set", setting)),
        cwd=folder,
        timeout_s=timeout_s,
        **AS_USERS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "runs" / config / "pretrain/results.json").read_text())


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """Thirty steps, and only half as wide."""
    folder = tmp_path_factory.mktemp("shakespeare")
    small = (
        "pretrain.steps=30",
        "pretrain.optimizer.schedule.warmup_steps=5",
        "pretrain.architecture.width=64",
    )
    return folder / "runs/shakespeare", run("shakespeare", folder, *small, timeout_s=420)


def test_the_last_tenth_is_held_out_to_the_letter_and_all_else_is_trained_on(short):
    folder, _ = short
    text = gzip.decompress(TEXT.read_bytes()).decode()
    tokenizer, cut = Tokenizer(folder / "data/tokenizer.model"), int(0.9 * len(text))

    def texts(side: str) -> list[str]:
        return [
            tokenizer.decode(record.sequences[0].tokens)
            for record in Shards(folder / "data" / side / "plays")
        ]

    assert (
        tokenizer.vocab_size <= VOCAB_SIZE and len(tokenizer.encode(text)) == len(text) == 1_115_394
    )
    assert texts("held_out") == [text[cut:]]
    pieces = sorted(texts("train"), key=text.index)
    assert len(pieces) == 9 and "".join(pieces) == text[:cut]


def test_every_letter_of_the_held_out_text_is_a_target_once(short):
    folder, _ = short
    (rows,) = shakespeare_run().evals[0].data.sources(folder).values()
    read = rows.read([rows.place(i) for i in range(len(rows))], slice(0, 64))
    targets = np.concatenate([row["targets_L"][row["weight_L"] > 0] for row in read]).tolist()
    tokenizer = Tokenizer(folder / "data/tokenizer.model")
    assert tokenizer.decode(targets) == gzip.decompress(TEXT.read_bytes()).decode()[-111_540:]
    assert targets[-1] == tokenizer.eos and len(targets) == 111_541, "and then that the text ends"


def test_it_learns(short):
    _, results = short
    assert results["after"]["plays/loss"] < results["before"]["plays/loss"] - 1.5


def test_both_configs_have_the_same_letters_and_ours_no_more_parameters():
    ours, theirs = llama_run(), shakespeare_run()
    assert ours.data == theirs.data and ours.steps == theirs.steps and ours.evals == theirs.evals
    with jax.set_mesh(make_mesh(jax.devices()[:1])):
        sizes = [
            n_params(jax.eval_shape(each.architecture.build(Precision()).init, jax.random.key(0)))
            for each in (ours, theirs)
        ]
    assert 0.98 * sizes[1] < sizes[0] <= sizes[1]


@pytest.mark.slow
def test_the_published_loss_is_reached_and_our_defaults_are_clearly_better(tmp_path):
    losses = {
        config: np.mean(
            [
                run(config, tmp_path / f"{config}{seed}", f"pretrain.seed={seed}", timeout_s=3600)[
                    "after"
                ]["plays/loss"]
                for seed in range(3)
            ]
        )
        for config in ("shakespeare", "shakespeare_llama")
    }
    assert losses["shakespeare"] <= PUBLISHED
    assert losses["shakespeare_llama"] < losses["shakespeare"] - 0.1
