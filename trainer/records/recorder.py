"""What is written of every step, fetched one step late."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from trainer.batches.source import BatchSource
from trainer.cluster.hosts import Hosts
from trainer.cluster.watchdog import Watchdog
from trainer.guard import Verdict
from trainer.norms import Watch
from trainer.records.costs import Costs
from trainer.records.goodput import Ledger
from trainer.records.memory import memory_row
from trainer.records.metrics import MetricsWriter

NOW_AND_THEN = 10  # steps between two rows with what changes slowly


class Step(NamedTuple):
    """A step that is under way."""

    number: int
    metrics: dict[str, Any]
    data_wait_s: float
    call_s: float  # on some devices a step is computed inside of its call
    rows: int  # gone through after it


@contextlib.contextmanager
def timed() -> Iterator[list[float]]:
    """The seconds of a block, once it has ended."""
    seconds, start = [], time.perf_counter()
    yield seconds
    seconds.append(time.perf_counter() - start)


class Recorder:
    """Rows for the metrics, seconds for the ledger, signs of life for the watchdog."""

    def __init__(
        self,
        metrics: MetricsWriter,
        ledger: Ledger,
        watchdog: Watchdog,
        hosts: Hosts,
        watch: Watch,
        *,
        source: BatchSource,
        learning_rate: Callable[[int], float],
        costs: Costs,
        advance: Callable[..., None],
    ):
        self.metrics, self.ledger, self._watchdog, self._hosts, self._watch = (
            metrics,
            ledger,
            watchdog,
            hosts,
            watch,
        )
        self._source, self._rates, self._costs, self._advance = source, learning_rate, costs, advance
        self._under_way: Step | None = None
        self._further: dict[str, float] = {}  # for the next row
        self._last = time.perf_counter()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[list[float]]:
        """For data: the seconds in which devices had nothing to do, once it is there."""
        seconds, start = [], time.perf_counter()
        with self.ledger.spent("data", hidden=self._computing):
            yield seconds
        seconds.append(0.0 if self._computing() else time.perf_counter() - start)

    def _computing(self) -> bool:
        return self._under_way is not None and not self._under_way.metrics["loss/train"][0].is_ready()

    @contextlib.contextmanager
    def pausing(self, cause: str) -> Iterator[None]:
        """Between two steps, on neither's time."""
        start = time.perf_counter()
        with self._watchdog.paused(), self.ledger.spent(cause):
            yield
        self._further[f"time/{cause}_s"] = time.perf_counter() - start
        self._last = time.perf_counter()

    def began(self, step: Step, numbers: dict[str, float]) -> Verdict | None:
        """A step is under way: write the row of the one before, with `numbers` in it."""
        self._further |= numbers
        verdict = self._write(whole=False)
        self._under_way = step
        self._watchdog.beat(step.number)
        return verdict

    def ended(self) -> Verdict | None:
        """Wait for the step that is under way, and write its row."""
        return self._write(whole=True)

    def _write(self, *, whole: bool) -> Verdict | None:
        """The time of a step runs from the end of the one before."""
        if self._under_way is None:
            return None
        step, self._under_way = self._under_way, None
        asked = time.perf_counter()
        watched = step.metrics.pop("watch", {})
        sums = jax.device_get(step.metrics)
        now = time.perf_counter()
        step_s, self._last = now - self._last, now
        row, histograms = self._watch.rows(step.number, watched)
        row |= quotients(sums) | self._times(step, step_s) | self._of_guard(step, sums)
        row |= self._of_hosts(step, step_s, now - asked + step.call_s)
        finite = math.isfinite(row["loss/train"]) and math.isfinite(row["optimizer/grad_norm"])
        verdict = Verdict(step.number, round(row["guard/streak"]), finite)
        self.ledger.stepped(step.number, step_s, lost_to="skipped" if verdict.streak else None)
        if whole or step.number % NOW_AND_THEN == 0:
            row |= self._source.numbers() | memory_row() | self.ledger.row()
        self.metrics.write(step.number, row | self._further)
        for name, (edges, counts) in histograms.items():
            self.metrics.histogram(step.number, name, edges, counts)
        self._further = {}
        self._advance(1, f"loss {row['loss/train']:.3f}, {row['throughput/tokens_per_s']:,.0f} tokens/s")
        return verdict

    def _times(self, step: Step, step_s: float) -> dict[str, float]:
        rate = self._costs.tokens_of(step.number) / step_s
        mfu = rate / self._costs.peak_tokens_per_s
        times = {
            "step_s": step_s,
            "data_wait_s": step.data_wait_s,
            "compute_s": max(step_s - step.data_wait_s, 0.0),
        }
        speeds = {"tokens_per_s": rate, "mfu": mfu, "hfu": mfu * self._costs.hardware_ratio}
        return {f"time/{name}": x for name, x in times.items()} | {
            f"throughput/{name}": x for name, x in speeds.items()
        }

    def _of_guard(self, step: Step, sums: dict[str, Any]) -> dict[str, float]:
        n_bad = sum(int(sums[f"guard/{name}"][0]) for name in ("skipped", "spikes"))
        rate = self._rates(max(step.number - 1 - n_bad, 0))  # bad steps are none of the optimizer's
        return {
            "optimizer/learning_rate": rate,
            "guard/rollbacks": len(self._source.position.skipped),
            "data/rows": step.rows,
        }

    def _of_hosts(self, step: Step, step_s: float, device_wait_s: float) -> dict[str, float]:
        row, straggler = self._hosts.gather(step_s, device_wait_s=device_wait_s)
        if straggler:
            self.ledger.event("straggler", step.number, why=straggler)
        return row

    def back_to(self, number: int) -> None:
        """What was written of later steps does not count."""
        if self._under_way and self._under_way.number > number:
            self._under_way = None
        self.metrics.back_to(number)
        self.ledger.back_to(number)
        self._last = time.perf_counter()


def quotients(sums: dict[str, tuple[Any, Any]]) -> dict[str, float]:
    """Each metric's sum by its weight; what has no weight in this batch is left out."""
    pairs = {
        name if "/" in name else f"train/{name}": (float(total), float(weight))
        for name, (total, weight) in sums.items()
    }
    return {name: total / weight for name, (total, weight) in pairs.items() if weight}
