"""`meshwright replay` makes a step again that has the bits of the log, and changes nothing in the run. Real
processes.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from data_pipeline.component import FrozenMap
from data_pipeline.loader import PackedShards
from launch.__main__ import main
from launch.job.yaml import to_yaml
from launch.verbs.replay import compared, same_bits
from model.architectures.llama import Llama
from tests.examples import ONE_DEVICE, under
from tests.launch.command import environment, meshwright
from tests.launch.corpus import write_corpus
from trainer.checkpoints.checkpointer import Checkpoints
from trainer.cluster.placement import EVENT, moved, placed_at, placement
from trainer.events import append_event
from trainer.objectives.next_token import NextToken
from trainer.optimizer import Optimizer
from trainer.optimizers.adamw import AdamW
from trainer.run import Run
from trainer.schedules import WarmupCosine

RUN = Run(
    architecture=Llama(
        vocab_size=320,
        width=16,
        layers=2,
        heads=4,
        kv_heads=2,
        head_width=6,
        feed_forward_width=24,
        context=24,
    ),
    objective=NextToken(),
    data=PackedShards(
        folder="data/train", weights=FrozenMap(web=2.0, books=1.0), seq_len=24, batch_size=4
    ),
    optimizer=Optimizer(
        rule=AdamW(),
        peak_lr=5e-3,
        schedule=WarmupCosine(warmup_steps=2, end_frac=0.1),
        weight_decay=0.1,
    ),
    steps=6,
    batch_ramp=((2, 3),),
    checkpoint=Checkpoints(every_steps=4, keep=9),
)
LATER = ("--set", "pretrain.steps=11", "--set", "pretrain.data.batch_size=6")
EACH = "import sys; from launch.__main__ import main; print([main(['replay', '--run', *each.split(':')]) for each in sys.argv[1:]])"


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Path:
    """A run of 6 steps that went on to 11 with larger batches: its learning rates and batches were others
    before and after.
    """
    folder = tmp_path_factory.mktemp("job")
    write_corpus(folder / "run/data", {"web": 12, "books": 5})
    (folder / "run/data/results.json").unlink()  # of a data phase, which this job has not
    (folder / "job.yaml").write_text(
        to_yaml({"pretrain": {"type": "Run", **RUN.model_dump(mode="json")}})
    )
    for more in ((), LATER):
        done = meshwright("run", "job.yaml", "--dir", "run", *more, cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def tampered(job) -> Path:
    """A copy in whose log every loss is half a nat more, and whose second life was on three processes."""
    other = shutil.copytree(job / "run", job / "tampered")
    rows = [
        json.loads(line) for line in (other / "pretrain/metrics.jsonl").read_text().splitlines()
    ]
    told = [
        {**row, "loss/train": row["loss/train"] + 0.5} if "loss/train" in row else row
        for row in rows
    ]
    (other / "pretrain/metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in told))
    with jax.set_mesh(under(ONE_DEVICE)):
        append_event(
            other / "pretrain", EVENT, 6, **{**placement(under(ONE_DEVICE)), "processes": 3}
        )
    return other


def test_steps_of_either_life_have_the_bits_of_the_log_and_the_run_stays_as_it_is(job, tampered):
    before = contents(job)
    asked = [*(f"run:--step:{step}" for step in (3, 6, 11)), "tampered:--step:9:--phase:pretrain"]
    command = [sys.executable, "-c", EACH, *asked]
    made = subprocess.run(
        command, cwd=job, env=environment(), capture_output=True, text=True, check=False
    )
    assert made.stdout.splitlines()[-1] == "[0, 0, 0, 1]", made.stdout + made.stderr
    told = re.findall(r"step (\d+), from (\w+ \w+)", made.stdout)
    assert told == [
        ("3", "the beginning"),
        ("6", "checkpoint 4"),
        ("11", "checkpoint 8"),
        ("9", "checkpoint 8"),
    ]
    counts = [
        (int(n), int(of))
        for n, of in re.findall(r"(\d+) of (\d+) numbers have the same bits", made.stdout)
    ]
    assert [of - n for n, of in counts] == [0, 0, 0, 1] and min(n for n, _ in counts) > 4
    assert {"loss/train", "optimizer/grad_norm", "train/accuracy"} <= set(made.stdout.split())
    assert re.search(r"loss/train +\d\.\d+ +\d\.\d+ +-0\.5", made.stdout)
    assert (
        "Other sums may round otherwise" in made.stdout and "processes 3 then, 1 now" in made.stdout
    )
    assert contents(job) == before


def test_what_is_not_there_is_said_so(job, capsys):
    for argv, said in (
        (
            ("replay", job / "run", "--step", 12),
            "--step 12: the log of .* has no such step; it has steps 1 to 11",
        ),
        (
            ("replay", job / "run", "--step", 2, "--phase", "sft"),
            "--phase sft: .* has no such phase that reads shards",
        ),
        (("replay", "--step", 2), "give the folder of one run"),
    ):
        assert main([*map(str, argv)]) == 2 and re.search(said, capsys.readouterr().err)


def test_numbers_are_compared_by_their_bits():
    assert same_bits(0.1, 0.1) and same_bits(float("nan"), float("nan"))
    assert not same_bits(0.1 + 0.2, 0.3) and not same_bits(0.0, -0.0)
    lines, n_exact = compared({"step": 3.0, "a": 1.0, "b": 2.0}, {"a": 1.0, "b": 2.5, "c": 1.0})
    assert lines == [("a", "1", "1", "the same bits"), ("b", "2", "2.5", "0.5")] and n_exact == 1


def test_where_a_step_was_computed_is_what_the_last_start_before_it_noted(tmp_path):
    with jax.set_mesh(under({"fsdp": 4, "tensor": 2})):
        here = placement(under({"fsdp": 4, "tensor": 2}))
    for step, processes in (
        (0, 1),
        (40, 2),
        (20, 4),
    ):  # 4 processes went on from 20: what 2 had made behind it was lost
        append_event(tmp_path, EVENT, step, **{**here, "processes": processes})
    assert [placed_at(tmp_path, step)["processes"] for step in (1, 20, 21, 60)] == [1, 1, 4, 4]
    assert placed_at(tmp_path / "nowhere", 3) is None
    assert (
        moved(placed_at(tmp_path, 60), here) == ["processes 4 then, 1 now"]
        and moved(here, here) == []
    )
    assert moved({**here, "mesh": {}}, here) == ["mesh of 1 device then, fsdp=4, tensor=2 now"]
