"""What is logged of every step; its metrics are fetched one step late, so that the devices do not wait."""

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
from trainer.memory import memory_row
from trainer.norms import Watch
from trainer.records.costs import Costs
from trainer.records.goodput import Ledger
from trainer.records.metrics import MetricsWriter
from trainer.records.profiler import Profiler

# steps between rows that also hold slowly changing numbers: memory, goodput, progress in the data
SLOW_ROWS_EVERY = 10


class Step(NamedTuple):
    """A step that was dispatched to the devices."""

    number: int
    metrics: dict[str, Any]
    data_wait_s: float
    call_s: float  # duration of the call that dispatches it, during which some backends already compute it
    rows: int  # consumed by the phase up to and with this step
    progress: dict[str, float] | None  # of the data after the step; None where its row holds none


class Recorder:
    """Turns finished steps into rows of metrics, seconds in the ledger and beats of the watchdog; tells the
    profiler where a step begins and ends.
    """

    def __init__(
        self,
        metrics: MetricsWriter,
        ledger: Ledger,
        watchdog: Watchdog,
        hosts: Hosts,
        watch: Watch,
        profiler: Profiler,
        *,
        source: BatchSource,
        learning_rate: Callable[[int], float],
        costs: Costs,
        advance: Callable[..., None],
    ):
        self.metrics = metrics
        self.ledger = ledger
        self._watchdog = watchdog
        self._hosts = hosts
        self._watch = watch
        self._profiler = profiler
        self._source = source
        self._learning_rate = learning_rate
        self._costs = costs
        self._advance = advance
        self._under_way: Step | None = None
        self._is_first = True  # of this process's steps
        # of the step that is being dispatched
        self._data_wait_s = 0.0
        self._call_s = 0.0
        self._extra: dict[str, float] = {}  # numbers from outside the step, for the next row
        self._last_end = time.perf_counter()  # when the last step, or a pause after it, ended

    @contextlib.contextmanager
    def waiting(self, number: int) -> Iterator[None]:
        """Put around the wait for the batch of step `number`; notes for how long the devices were idle."""
        # A trace holds the wait too: it may be what makes the step slow.
        self._profiler.before(number)
        start = time.perf_counter()
        with self.ledger.spent("data", hidden=self._is_computing):
            yield
        self._data_wait_s = 0.0 if self._is_computing() else time.perf_counter() - start

    @contextlib.contextmanager
    def dispatching(self) -> Iterator[None]:
        """Put around the call that dispatches a step; notes how long it took."""
        start = time.perf_counter()
        yield
        self._call_s = time.perf_counter() - start

    def _is_computing(self) -> bool:
        # All outputs of a compiled step become ready together, the loss among them.
        return (
            self._under_way is not None and not self._under_way.metrics["loss/train"][0].is_ready()
        )

    @contextlib.contextmanager
    def pausing(self, cause: str) -> Iterator[None]:
        """Put around work between two steps; charges its time to `cause` instead of to a step."""
        start = time.perf_counter()
        with self._watchdog.paused(), self.ledger.spent(cause):
            yield
        self._last_end = time.perf_counter()
        self._extra[f"time/{cause}_s"] = self._last_end - start

    def began(
        self, number: int, metrics: dict[str, Any], numbers: dict[str, float]
    ) -> Verdict | None:
        """Call when step `number` has been dispatched, which gives `metrics`; writes the row of the step
        before, with `numbers`.

        Returns the verdict on that earlier step. The devices have work meanwhile, so waiting for the earlier
        step's metrics leaves them busy.
        """
        self._extra |= numbers
        # Before the new step becomes the one under way: the row is that of the one before.
        verdict_before = self._write()
        rows = self._source.position.rows
        # Asked now: when this step's row is written, the source has moved on to the next one.
        progress = None if number % SLOW_ROWS_EVERY else self._source.numbers()
        self._under_way = Step(number, metrics, self._data_wait_s, self._call_s, rows, progress)
        self._watchdog.beat(number)
        self._profiler.after(number, metrics)
        return verdict_before

    def ended(self, *, planned: bool) -> Verdict | None:
        """Wait for the step under way and write its row; the verdict on it.

        `planned` is false where only a signal ends it here: its row then has the fields that it would have
        had otherwise, so that the log does not depend on signals.
        """
        if planned and self._under_way is not None:
            self._under_way = self._under_way._replace(progress=self._source.numbers())
        return self._write()

    def _write(self) -> Verdict | None:
        """Write the row of the step under way; its time runs from the end of the one before."""
        if self._under_way is None:
            return None
        step = self._under_way
        # Cleared before the wait: after an error in it the row must not be written a second time.
        self._under_way = None
        began_to_wait = time.perf_counter()
        watched = step.metrics.pop("watch", {})  # `Watch.rows` fetches these, at its intervals only
        # waits until the devices have computed the step
        sums = jax.device_get(step.metrics)
        now = time.perf_counter()
        step_s = now - self._last_end
        self._last_end = now
        row, histograms = self._watch.rows(step.number, watched)
        row |= quotients(sums) | self._times(step, step_s) | self._of_guard(step, sums)
        row |= self._of_hosts(step, step_s, now - began_to_wait + step.call_s)
        finite = math.isfinite(row["loss/train"]) and math.isfinite(row["optimizer/grad_norm"])
        verdict = Verdict(step.number, round(row["guard/streak"]), finite)
        self.ledger.stepped(step.number, step_s, lost_to="skipped" if verdict.streak else None)
        if step.progress is not None:
            # each of these costs a system call or a lock
            row |= step.progress | memory_row() | self.ledger.row()
        self.metrics.write(step.number, row | self._extra)
        for name, (edges, counts) in histograms.items():
            self.metrics.histogram(step.number, name, edges, counts)
        self._extra = {}
        self._advance(1, f"loss {row['loss/train']:.3f}, {self._speed(row)}")
        return verdict

    def _speed(self, row: dict[str, float]) -> str:
        """What is shown of a step's time."""
        if self._is_first:
            # Compiling is a part of it, so that it says nothing of the steps to come.
            self._is_first = False
            return f"compiled and made in {row['time/step_s']:.2g} s"
        rate = f"{row['throughput/tokens_per_s']:,.0f} tokens/s"
        return f"{rate}, {row['time/step_s']:.2g} s a step"

    def _times(self, step: Step, step_s: float) -> dict[str, float]:
        tokens_per_s = self._costs.tokens_of(step.number) / step_s
        flops_per_s = tokens_per_s * self._costs.flops_per_token
        row = {
            "time/step_s": step_s,
            "time/data_wait_s": step.data_wait_s,
            "time/compute_s": max(step_s - step.data_wait_s, 0.0),
            "throughput/tokens_per_s": tokens_per_s,
            "throughput/flops_per_s": flops_per_s,
        }
        if self._costs.peak_flops is not None:
            mfu = flops_per_s / self._costs.peak_flops
            row |= {"throughput/mfu": mfu, "throughput/hfu": mfu * self._costs.hardware_ratio}
        return row

    def _of_guard(self, step: Step, sums: dict[str, Any]) -> dict[str, float]:
        # The guard drops a bad step's optimizer state too, so the schedule lags by the number of bad steps.
        n_bad = sum(int(sums[f"guard/{name}"][0]) for name in ("skipped", "spikes"))
        # - 1: optax evaluates the schedule at the number of updates before this one.
        n_updates = max(step.number - 1 - n_bad, 0)
        return {
            "optimizer/learning_rate": self._learning_rate(n_updates),
            "guard/rollbacks": len(self._source.position.skipped),
            "data/rows": step.rows,
        }

    def _of_hosts(self, step: Step, step_s: float, device_wait_s: float) -> dict[str, float]:
        row, straggler = self._hosts.gather(step_s, device_wait_s=device_wait_s)
        if straggler:
            self.ledger.event("straggler", step.number, why=straggler)
        return row

    def back_to(self, number: int) -> None:
        """Discard the rows of the steps after `number`, which a rollback abandons."""
        if self._under_way and self._under_way.number > number:
            self._under_way = None
        self.metrics.back_to(number)
        self.ledger.back_to(number)
        self._last_end = time.perf_counter()


def quotients(sums: dict[str, tuple[Any, Any]]) -> dict[str, float]:
    """Each metric's sum divided by its weight; names without a slash get the prefix `train/`.

    Metrics of weight 0 are left out: a source without rows in this batch has no mean loss.
    """
    row = {}
    for name, (total, weight) in sums.items():
        if float(weight):
            row[name if "/" in name else f"train/{name}"] = float(total) / float(weight)
    return row
