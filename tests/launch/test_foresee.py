"""What can be known before the first phase is said before it, all at once, and nothing is written."""

import pytest

from launch.job.load import load
from launch.job.problems import Problems
from launch.running.lineage import Answers
from launch.running.phases import check


def told(tmp_path, *settings, n_devices=4):
    """The problems of `tiny` with these settings on so many devices."""
    with pytest.raises(Problems) as caught:
        check(load("tiny", settings), tmp_path / "run", Answers(), n_devices=n_devices)
    assert not list(tmp_path.iterdir())
    return caught.value.problems


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        (
            "sft.start_from=pretran",
            "sft.start_from=pretran is no trained phase before this one (pretrain) and no folder of one",
        ),
        ("sft.start_from=data", "sft.start_from=data is no trained phase"),
        ("pretrain.start_from=dpo", "pretrain.start_from=dpo is no trained phase before this one"),
        (
            "pretrain.data.weights={webb: 1}",
            "pretrain.data.weights names 'webb', no source of phase data; choose of web, code, books",
        ),
        ("dpo.evals.0.data.weights={pair: 1}", "dpo.evals.0.data.weights names 'pair', no source"),
        ("sft.data.folder=data/trian", "sft.data.folder=data/trian is none that data makes"),
        ("sft.data.folder=date/train", "sft.data.folder=date/train is in no phase before this one"),
        ("sft.tokenizer=tok.model", "sft.tokenizer=tok.model is in no phase before this one"),
        ("data.sources.books.folder=nowhere", "data.sources.books.folder='nowhere' does not exist"),
        (
            "data.sources.web={type: Jsonl, paths: [gone.jsonl]}",
            "data.sources.web.paths='gone.jsonl' does not exist",
        ),
        (
            "data.tokenizer={type: TrainedTokenizer, path: t.model}",
            "data.tokenizer.path=t.model does not exist",
        ),
        ("sft.mesh.tensor=3", "sft.mesh (fsdp=-1, tensor=3) does not divide 4 devices"),
        ("sft.data.batch_size=6", "sft.data.batch_size=6 does not divide over"),
        ("dpo.evals.0.data.batch_size=6", "dpo.evals.0.data: data.batch_size=6 does not divide"),
        ("dpo.mesh={fsdp: 1, tensor: 4}", "dpo.architecture: mesh tensor=4 does not divide H=3"),
    ],
)
def test_each_fault_is_a_sentence(tmp_path, monkeypatch, setting, sentence):
    monkeypatch.chdir(tmp_path)
    problems = told(tmp_path, setting)
    assert any(line.startswith(sentence) for line in problems), problems


def test_all_faults_are_said_together(tmp_path):
    settings = ("sft.start_from=pretran", "pretrain.data.weights={webb: 1}", "dpo.mesh.tensor=7")
    assert len(told(tmp_path, *settings, "data.sources.books.folder=nowhere")) == 4


def test_a_sound_job_is_let_through(tmp_path):
    found = check(load("tiny"), tmp_path, Answers(), n_devices=2)
    assert set(found.values()) == {"new"}
