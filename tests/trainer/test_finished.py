"""A finished phase is believed for what it left: another checkpoint under that name is refused, and said how to
go on.
"""

import json
import shutil
from pathlib import Path

import jax
import pytest

from tests.examples import ONE_DEVICE, under
from tests.trainer.saved_states import Events, saved
from trainer.checkpoints.checkpointer import Checkpointer, Checkpoints
from trainer.checkpoints.finished import DONE, check_tokenizer, ending_of, proved_checkpoint
from trainer.checkpoints.load import load_params

STEPS = (1, 2, 3)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Two finished phases of equal settings, and so of equal parameters."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("sft", "other"):
        saved(folder / name, STEPS, mesh=under(ONE_DEVICE), keep=3).close()
        (folder / name / DONE).write_text(json.dumps(ending_of(folder / name)))
    return folder


@pytest.fixture
def sft(runs, tmp_path) -> Path:
    shutil.copytree(runs / "sft", tmp_path / "sft")
    return tmp_path / "sft"


def replace(path: Path, other: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(other, path)


DAMAGES = {
    "deleted": (lambda at, _: shutil.rmtree(at / "3"), "is missing; restore it, or remove"),
    "renamed": (lambda at, _: (at / "3").rename(at / "140"), "is missing; restore it"),
    "older copied over it": (lambda at, _: replace(at / "3", at / "2"), "it holds step 2"),
    "another run's": (
        lambda at, other: replace(at / "3", other / "3"),
        "is not a checkpoint that it left; restore its own, or remove this one, then remove",
    ),
    "a file of it lost": (
        lambda at, _: (at / "3/fingerprints/metadata").unlink(),
        "fingerprints/metadata is missing",
    ),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_finished_phase_without_its_last_checkpoint_is_refused(runs, sft, kind):
    assert proved_checkpoint(sft) == sft / "checkpoints/3"
    damage, problem = DAMAGES[kind]
    damage(sft / "checkpoints", runs / "other/checkpoints")
    with jax.set_mesh(under(ONE_DEVICE)), pytest.raises(ValueError, match=problem) as refused:
        load_params(sft)
    assert str(refused.value).startswith(f"{sft} ended at step 3")
    assert f"remove {sft / DONE} and run its job again" in str(refused.value)


def test_a_checkpoint_that_is_asked_for_by_its_step_is_proved_too(runs, sft):
    assert proved_checkpoint(sft, 2) == sft / "checkpoints/2"
    replace(sft / "checkpoints/2", runs / "other/checkpoints/2")
    with pytest.raises(ValueError, match=r"checkpoints/2 is not a checkpoint that it left"):
        proved_checkpoint(sft, 2)
    with pytest.raises(FileNotFoundError, match=r"no checkpoint of step 9; it has 1, 2, 3"):
        proved_checkpoint(sft, 9)


def test_without_a_word_of_its_end_a_phase_has_its_newest_checkpoint(sft):
    (sft / DONE).write_text('{"fingerprint": "ab"}')
    shutil.rmtree(sft / "checkpoints/3")
    assert proved_checkpoint(sft) == sft / "checkpoints/2"
    (sft / DONE).write_text("{")
    with pytest.raises(ValueError, match=r"done.json is not what was written; remove it"):
        proved_checkpoint(sft)


def test_a_checkpoint_is_the_step_that_its_content_says(sft):
    folder, events = sft / "checkpoints", Events()
    (folder / "3").rename(folder / "x")
    (folder / "2").rename(folder / "3")
    (folder / "x").rename(folder / "2")
    shutil.copytree(folder / "1", folder / "140")
    checkpointer = Checkpointer(sft, Checkpoints(every_steps=2), event=events)
    assert checkpointer.verify_latest() == 1
    assert [(step, what["why"]) for step, what in events.of("damaged")] == [
        (140, "it holds step 1"),
        (3, "it holds step 2"),
        (2, "it holds step 3"),
    ]
    checkpointer.close()


def test_a_tokenizer_is_the_one_that_the_phase_beside_it_made(tmp_path):
    tokenizer = tmp_path / "tokenizer.model"
    tokenizer.write_bytes(b"pieces")
    check_tokenizer(tokenizer)
    digest = "1c24fc5c13eaf2a2f9f2b8d7c0bd2b3ec0b8cbb3f0d7ad2dd8c0cbb9a5a6a4c7"
    (tmp_path / DONE).write_text(json.dumps({"tokenizer": digest}))
    with pytest.raises(ValueError, match=r"tokenizer.model is not the tokenizer .*; restore it"):
        check_tokenizer(tokenizer)
