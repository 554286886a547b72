"""Small phases for the tests of the launch room, named to the command by `--import tests.launch.toy`."""

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from data_pipeline import settings
from data_pipeline.component import FrozenMap, one_of


class Adam(BaseModel, frozen=True, extra="forbid", strict=True):
    peak_lr: Annotated[float, Field(gt=0)]
    warmup_steps: int = 1


class Lion(BaseModel, frozen=True, extra="forbid", strict=True):
    rate: float


class Part(BaseModel, frozen=True, extra="forbid", strict=True):
    name: str
    weight: float = 1.0


class DeviceWork(BaseModel, frozen=True, extra="forbid", strict=True):
    """What phases on devices answer alike."""

    def needs_devices(self) -> bool:
        """All processes take part."""
        return True

    def fingerprint(self) -> str:
        """All fields, whichever they are."""
        return settings.digest(self.model_dump(mode="json"))

    def problems(self, job: dict[str, Any]) -> list[str]:
        """No rules beyond those of each field."""
        return []


class Count(BaseModel, frozen=True, extra="forbid", strict=True):
    """Host work: counts to `steps`; `fails_with` raises instead."""

    steps: Annotated[int, Field(gt=0)]
    optimizer: one_of("tests.launch.toy") = Adam(peak_lr=1e-3)
    mode: Literal["fast", "slow"] = "fast"
    parts: tuple[Part, ...] = ()
    weights: FrozenMap[str, float] = FrozenMap()
    start_from: str | None = None
    step_s: float = 0.0
    fails_with: Literal["ValueError", "KeyError", "disk", "foreign"] | None = None
    foresees: str | None = None
    sources: tuple[str, ...] = ()

    def foreseen(self, folder: Path, before: Sequence[str]) -> list[str]:
        """What it is told to foresee."""
        return [f"mode: {self.foresees}; wait"] if self.foresees else []

    def needs_devices(self) -> bool:
        """Host work needs none."""
        return False

    def fingerprint(self) -> str:
        """All fields, whichever they are."""
        return settings.digest(self.model_dump(mode="json"))

    def problems(self, job: dict[str, Any]) -> list[str]:
        """The rules across fields and phases."""
        found = []
        if isinstance(self.optimizer, Adam) and self.optimizer.warmup_steps > self.steps:
            found.append(
                f"optimizer.warmup_steps={self.optimizer.warmup_steps} exceeds steps={self.steps}; lower it or raise steps"
            )
        if self.start_from is not None and self.start_from not in job:
            found.append(
                f"start_from={self.start_from} is no phase of this job; there are {', '.join(job)}"
            )
        return found

    def execute(self, folder: Path, *, job_folder: Path, progress: Any, say: Any) -> None:
        """Count, and write results.json."""
        if self.fails_with == "ValueError":
            raise ValueError("steps=1 is not to my liking; choose another")
        if self.fails_with == "KeyError":
            raise KeyError("a fault of ours")
        if self.fails_with == "foreign":
            json.loads("{")
        if self.fails_with == "disk":
            raise OSError(28, "No space left on device", str(folder / "shard"))
        with progress("counting", self.steps, unit="steps") as advance:
            for _ in range(self.steps):
                (folder / "begun").touch()
                time.sleep(self.step_s)
                advance(1)
        results = {
            "before": {"loss": 3.0},
            "after": {"loss": 2.0},
            "summary": {"steps": self.steps},
        }
        (folder / "results.json").write_text(json.dumps(results))


class Placed(BaseModel, frozen=True, extra="forbid", strict=True):
    """Host work whose result does not depend on where it is done."""

    where: str = "here"

    def needs_devices(self) -> bool:
        """Host work needs none."""
        return False

    def fingerprint(self) -> str:
        """Nothing decides the result."""
        return "0" * 16

    def problems(self, job: dict[str, Any]) -> list[str]:
        """No rules."""
        return []

    def execute(self, folder: Path, *, job_folder: Path) -> None:
        """Write results.json."""
        (folder / "results.json").write_text('{"before": {}, "after": {}, "summary": {}}')


class Sum(DeviceWork):
    """Adds 1 + process index over all processes `rounds` times; `dies` kills that process
    halfway.
    """

    rounds: int = 1
    dies: int | None = None
    step_s: float = 0.0

    def execute(self, folder: Path, *, job_folder: Path) -> None:
        """Sum, and let every process write what it found."""
        import jax
        import jax.numpy as jnp
        from jax.experimental import multihost_utils

        for i in range(self.rounds):
            total = int(multihost_utils.process_allgather(jnp.int32(1 + jax.process_index())).sum())
            (folder / f"begun-{jax.process_index()}").touch()
            if self.dies == jax.process_index() and i == self.rounds // 2:
                os.kill(os.getpid(), 9)
            time.sleep(self.step_s)
        seen = {
            "sum": total,
            "n": jax.process_count(),
            "devices": jax.device_count(),
            "local": jax.local_device_count(),
        }
        (folder / f"process-{jax.process_index()}.json").write_text(json.dumps(seen))


def job() -> dict[str, Any]:
    """Two counts."""
    return {
        "data": Count(steps=5, optimizer=Adam(peak_lr=1e-3, warmup_steps=2)),
        "pretrain": Count(
            steps=20,
            optimizer=Adam(peak_lr=1e-5),
            parts=(Part(name="no"), Part(name="1e-3")),
            weights=FrozenMap(web=1.0),
        ),
    }
