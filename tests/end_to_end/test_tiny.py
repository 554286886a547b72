"""The shipped config `tiny`, shrunk by `--set`: raw text in; data, pretraining, SFT, DPO, text and a report
out.
"""

import json
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from data_pipeline.shards.shards import Shards
from data_pipeline.tokenizers.tokenizer import Tokenizer
from tests.launch.command import AS_USERS, meshwright
from trainer.records.tensorboard import tag_of

WEB = "[json, textwrap, csv, shlex, string, random, heapq, bisect, calendar, argparse, glob, fnmatch, tempfile, queue, sched, hashlib]"
SIZES = {
    "vocab_size": 640,
    "width": 48,
    "layers": 2,
    "heads": 2,
    "kv_heads": 1,
    "head_width": 16,
    "feed_forward_width": 96,
}
PHASES = ("pretrain", "sft", "dpo")


def settings(code: Path) -> list[str]:
    """What makes `tiny` smaller still, without touching what it is."""
    changed = {
        "data.sources.web.modules": WEB,
        "data.sources.code": f"{{type: CodeTree, folder: {code}}}",
        "data.held_out_frac": 0.15,
        "data.tokenizer.vocab_size": SIZES["vocab_size"],
        "pretrain.steps": 100,
        "pretrain.optimizer.schedule.warmup_steps": 10,
        "sft.steps": 60,
        "dpo.steps": 40,
        "dpo.optimizer.peak_lr": 5e-3,
        "dpo.objective.sft_weight": 0.1,
        "pretrain.evals.0.max_rows": 32,
    }
    changed |= {
        f"{phase}.architecture.{field}": size for phase in PHASES for field, size in SIZES.items()
    }
    return [word for path, value in changed.items() for word in ("--set", f"{path}={value}")]


@pytest.fixture(scope="module")
def tiny(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, list[str], subprocess.CompletedProcess]:
    """The folder it ran in, the command, and what it printed."""
    folder, stdlib = tmp_path_factory.mktemp("tiny"), Path(sysconfig.get_path("stdlib"))
    for name in ("json", "email", "http", "logging", "importlib", "concurrent"):
        shutil.copytree(
            stdlib / name, folder / "code" / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in (
        "argparse",
        "ast",
        "calendar",
        "csv",
        "difflib",
        "fractions",
        "ftplib",
        "heapq",
        "inspect",
        "random",
        "shutil",
    ):
        shutil.copy(stdlib / f"{name}.py", folder / "code")
    command = ["run", "tiny", *settings(folder / "code")]
    return folder, command, meshwright(*command, cwd=folder, timeout_s=420, **AS_USERS)


def results(folder: Path, phase: str) -> dict:
    """What a phase wrote of itself."""
    return json.loads((folder / "runs/tiny" / phase / "results.json").read_text())


def test_a_good_run_ends_well_and_warns_of_nothing(tiny) -> None:
    _, _, done = tiny
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "Warning" not in done.stdout and "Traceback" not in done.stdout
    assert "What to look at:\n  bits_per_byte" in done.stdout
    assert "meshwright generate runs/tiny --chat --prompt" in done.stdout


def test_every_phase_improves_its_held_out_metric(tiny) -> None:
    folder, _, _ = tiny
    pretrain, sft, dpo = (results(folder, phase) for phase in PHASES)
    for source in ("web", "code", "books"):
        assert (
            pretrain["after"][f"{source}/bits_per_byte"]
            < 0.8 * pretrain["before"][f"{source}/bits_per_byte"]
        )
    assert sft["after"]["chat/loss"] < 0.9 * sft["before"]["chat/loss"]
    assert sft["after"]["chat/accuracy"] > sft["before"]["chat/accuracy"]
    assert dpo["before"]["chat/loss"] == pytest.approx(sft["after"]["chat/loss"], rel=1e-5)
    assert dpo["after"]["chat/loss"] < 1.1 * dpo["before"]["chat/loss"], (
        "preferences do not ruin the text"
    )
    assert dpo["before"]["pairs/dpo_loss"] == pytest.approx(0.693147, abs=1e-5), (
        "policy and reference begin as the same model"
    )
    assert dpo["before"]["pairs/rewards/accuracies"] == 0
    assert (
        dpo["after"]["pairs/rewards/accuracies"] > 0.5 and dpo["after"]["pairs/rewards/margins"] > 0
    )


def test_a_phase_starts_where_the_one_before_ended(tiny) -> None:
    folder, _, _ = tiny
    sft, dpo = results(folder, "sft"), results(folder, "dpo")
    assert len(sft["samples"]) == len(dpo["samples"]) == 2
    assert sft["samples"][0]["text"]


def test_second_run_skips_every_phase_and_changes_nothing(tiny) -> None:
    folder, command, _ = tiny
    before = {
        path: path.stat().st_mtime_ns
        for phase in ("data", *PHASES)
        for path in (folder / "runs/tiny" / phase).rglob("*")
    }
    again = meshwright(*command, cwd=folder, **AS_USERS)
    assert again.returncode == 0 and again.stdout.count("skipped") == 4
    assert before == {
        path: path.stat().st_mtime_ns
        for phase in ("data", *PHASES)
        for path in (folder / "runs/tiny" / phase).rglob("*")
    }


def test_no_held_out_answer_stands_in_any_training_shard(tiny) -> None:
    folder, _, _ = tiny
    data = folder / "runs/tiny/data"
    tokenizer = Tokenizer(data / "tokenizer.model")

    def words(shards: Path, *, targets_only: bool) -> list[str]:
        sequences = [s for record in Shards(shards) for s in record.sequences]
        kept = [s.tokens[s.weight > 0] if targets_only else s.tokens for s in sequences]
        return [" ".join(tokenizer.decode(ids).split()) for ids in kept]

    answers = [
        text for text in words(data / "held_out/chat", targets_only=True) if len(text.split()) >= 6
    ]
    assert len(answers) > 20
    trained_on = "\n".join(
        text
        for folder in sorted((data / "train").iterdir())
        for text in words(folder, targets_only=False)
    )
    assert not [answer for answer in answers if answer in trained_on]
    split = json.loads((data / "held_out.json").read_text())
    assert split, "which groups are set aside is written down"


@pytest.mark.parametrize("phase", PHASES)
def test_tensorboard_reads_what_every_phase_wrote(tiny, phase: str) -> None:
    folder, _, _ = tiny
    events = EventAccumulator(str(folder / "runs/tiny" / phase)).Reload()
    tags = set(events.Tags()["scalars"])
    stable = {
        "loss/train",
        "optimizer/learning_rate",
        "optimizer/grad_norm",
        "throughput/tokens_per_s",
        "throughput/flops_per_s",
    }
    assert {tag_of(name) for name in (*stable, "time/step_s", "time/data_wait_s")} <= tags
    own = {
        "pretrain": "eval/web/bits_per_byte",
        "sft": "eval/chat/accuracy",
        "dpo": "rewards/margins",
    }
    assert tag_of(own[phase]) in tags
    measured = next(tag for tag in sorted(tags) if tag.startswith(tag_of("eval/")))
    evaluated = [event.step for event in events.Scalars(measured)]
    assert evaluated[0] == 0 and len(evaluated) >= 2, "before and after"
    steps = [event.step for event in events.Scalars(tag_of("loss/train"))]
    assert steps == list(range(1, len(steps) + 1))


def test_the_report_shows_every_phase(tiny) -> None:
    folder, _, _ = tiny
    page = (folder / "runs/tiny/report.html").read_text()
    assert all(phase in page for phase in ("data", *PHASES)) and "<svg" in page
    assert not re.search(r"""(src|href|url)\s*[=(]\s*["']?https?:""", page), (
        "the page needs nothing from elsewhere"
    )


@pytest.mark.parametrize("where", ["", "/pretrain", "/sft"])
def test_generate_from_any_phase(tiny, where: str) -> None:
    folder, _, _ = tiny
    made = meshwright(
        "generate", f"runs/tiny{where}", "--prompt", "def read(", "--max-tokens", "12", cwd=folder
    )
    assert made.returncode == 0, made.stderr
    assert made.stdout.strip() and made.stderr == ""
