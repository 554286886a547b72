"""A job in a folder and the command on it, as the tests of this folder and the soak use them. Real
processes, real signals.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from data_pipeline.tokenizers.tokenizer import SentencePiece
from launch.job.yaml import to_yaml
from tests.examples import random_documents, write_documents
from tests.launch.command import begin, meshwright, until
from trainer.records.metrics import read_metrics
from trainer.run import Run

VOCAB = 384
COMMAND = ("run", "job.yaml", "--dir", "run", "--import", "tests.end_to_end.seen_rows")
TAIL_BYTES = 1 << 16  # holds the last row of metrics
NUMBERS = ("step", "loss/train", "optimizer/grad_norm", "optimizer/learning_rate", "train/accuracy")


def write_job(folder: Path, run: Run, **fields: Any) -> None:
    """job.yaml: one phase, `pretrain`; `fields` take the place of the run's, as they stand in YAML."""
    (folder / "job.yaml").write_text(
        to_yaml({"pretrain": {"type": "Run", **run.model_dump(mode="json"), **fields}})
    )


def write_data(folder: Path, documents: Mapping[str, int], *, first_target: int = 1) -> None:
    """A tokenizer, and shards of so many random documents a source, of 4 to 60 tokens each."""
    rng = np.random.default_rng(0)
    SentencePiece(vocab_size=VOCAB, model="bpe").train(
        [Path(__file__).read_text()], folder / "run/data/tokenizer.model"
    )
    for name, n in documents.items():
        lengths = rng.integers(4, 60, n).tolist()
        write_documents(
            folder / "run/data/train" / name,
            random_documents(rng, lengths, VOCAB),
            first_target=first_target,
        )


def copied(job: Path, to: Path) -> Path:
    """A copy of a job with all that its runs have left."""
    shutil.copytree(job, to)
    return to


def run(job: Path, *more: str, **env: str) -> subprocess.CompletedProcess:
    """Run or resume to the end."""
    return meshwright(*COMMAND, *more, cwd=job, timeout_s=600, **env)


def last_step(job: Path) -> int:
    """The newest step in metrics.jsonl, 0 before the first; cheap enough to be asked a hundred times a
    second.
    """
    try:
        with (phase(job) / "metrics.jsonl").open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - TAIL_BYTES, 0))
            whole_lines = file.read().rpartition(b"\n")[0].splitlines()
    except FileNotFoundError:
        return 0
    return json.loads(whole_lines[-1])["step"] if whole_lines else 0


def finish(job: Path, *more: str, **env: str) -> Path:
    """`run`, which must succeed."""
    done = run(job, *more, **env)
    assert done.returncode == 0, done.stdout + done.stderr
    return job


def phase(job: Path) -> Path:
    """The folder of the phase."""
    return job / "run/pretrain"


def rows(job: Path) -> list[dict[str, Any]]:
    """The training rows written so far."""
    return [row for row in read_metrics(phase(job)) if "loss/train" in row]


def saved(job: Path) -> list[int]:
    """The steps of whole checkpoints."""
    return sorted(
        int(path.name) for path in (phase(job) / "checkpoints").glob("*") if path.name.isdigit()
    )


def unfinished(job: Path) -> set[Path]:
    """What lies beside the whole checkpoints: the save that is running, or that a kill has left."""
    return {
        path
        for path in (phase(job) / "checkpoints").glob("*")
        if path.is_dir() and not path.name.isdigit()
    }


def n_files(folder: Path) -> int:
    """In a folder that may be renamed meanwhile."""
    return sum(len(names) for _, _, names in os.walk(folder))


def kill(process: subprocess.Popen) -> None:
    """SIGKILL to the command and to all that it started, and wait until none of them runs."""
    everyone = [process.pid, *children(process.pid)]
    for pid in everyone:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=60)
    until(lambda: not any(map(runs, everyone)), "killed processes to go")


def children(pid: int) -> list[int]:
    """Processes that a process has started and that still run. (The kernel's own list of them is incomplete
    while they do.)
    """
    numbers = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
    return [number for number in numbers if _state_and_parent(number)[1] == pid and runs(number)]


def runs(pid: int) -> bool:
    """Whether a process still does; one that has ended may stand in the table until its parent asks for
    it.
    """
    return _state_and_parent(pid)[0] not in "ZX"


def _state_and_parent(pid: int) -> tuple[str, int]:
    """`X` is what Linux calls a process that is gone."""
    try:
        state, parent, *_ = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "X", 0
    return state, int(parent)


def soon(condition: Callable[[], bool], what: str, timeout_s: float = 300) -> None:
    """Wait for a moment that passes quickly."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"waited {timeout_s} s for {what}"
        time.sleep(0.002)


def killed_when(condition: Callable[[], bool], what: str, job: Path, *more: str) -> None:
    """Start or resume, and kill everything the moment that `condition` holds."""
    process = begin(*COMMAND, *more, cwd=job)
    soon(lambda: process.poll() is not None or condition(), what)
    assert process.poll() is None, f"the run ended before {what}: {process.communicate()}"
    kill(process)


def rewind(job: Path, step: int) -> None:
    """Leave a run as a kill behind the save of `step` would have left it."""
    assert step in saved(job)
    for later in saved(job):
        if later > step:
            shutil.rmtree(phase(job) / f"checkpoints/{later}")
    for name in ("done.json", "results.json"):
        (phase(job) / name).unlink(missing_ok=True)


def arrays(job: Path, step: int) -> dict[str, np.ndarray]:
    """Every array of a checkpoint by its path, whatever processes and devices it was saved from."""
    found = {}
    for item in ("params", "optimizer"):
        with ocp.PyTreeCheckpointer() as reader:
            folder = (phase(job) / f"checkpoints/{step}/{item}").resolve()
            as_numpy = jax.tree.map(
                lambda _: ocp.RestoreArgs(restore_type=np.ndarray),
                reader.metadata(folder).item_metadata.tree,
            )
            tree = ocp.tree.to_flat_dict(reader.restore(folder, restore_args=as_numpy), sep="/")
        found |= {f"{item}/{path}": np.asarray(leaf) for path, leaf in tree.items()}
    return found


def differences(job: Path, other: Path) -> list[str]:
    """What is not equal to the last bit: arrays of the last checkpoint, numbers of every step, results of
    the evals.
    """
    steps = [saved(folder)[-1] for folder in (job, other)]
    ours, theirs = (arrays(folder, step) for folder, step in zip((job, other), steps, strict=True))
    found = [] if steps[0] == steps[1] else [f"last steps {steps}"]
    found += sorted(
        name
        for name in ours.keys() | theirs.keys()
        if not _same_bits(ours.get(name), theirs.get(name))
    )
    mine, its = ({row["step"]: _numbers(row) for row in rows(folder)} for folder in (job, other))
    found += [
        f"metrics of step {step}"
        for step in sorted(mine.keys() | its.keys())
        if mine.get(step) != its.get(step)
    ]
    results = [json.loads((phase(folder) / "results.json").read_text()) for folder in (job, other)]
    return found + [
        f"results {side}" for side in ("before", "after") if results[0][side] != results[1][side]
    ]


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    """What of a row of metrics follows from the step alone: no times, no memory."""
    return {
        name: value for name, value in row.items() if name in NUMBERS or name.startswith("row/")
    }


def _same_bits(x: np.ndarray | None, y: np.ndarray | None) -> bool:
    return (
        x is not None
        and y is not None
        and x.dtype == y.dtype
        and x.shape == y.shape
        and x.tobytes() == y.tobytes()
    )


def assert_same_bits(job: Path, other: Path) -> None:
    """Parameters, optimizer state, key, losses, gradient norms: equal to the last bit, and every step
    once.
    """
    assert differences(job, other) == []
    steps = [row["step"] for row in rows(job)]
    assert steps == list(range(1, len(steps) + 1)) and len(arrays(job, steps[-1])) > 20
