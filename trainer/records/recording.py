"""The records of a phase, opened for its loop and closed whatever ends it."""

import contextlib
from collections.abc import Callable, Iterator

from trainer.batches.source import BatchSource
from trainer.cluster.coordination import is_first
from trainer.cluster.hosts import Hosts
from trainer.cluster.watchdog import Watchdog
from trainer.phase import Phase
from trainer.records.costs import Rates, costs_of
from trainer.records.goodput import Ledger
from trainer.records.metrics import MetricsWriter
from trainer.records.profiler import Profiler
from trainer.records.recorder import Recorder


@contextlib.contextmanager
def recording(
    phase: Phase,
    source: BatchSource,
    ledger: Ledger,
    hosts: Hosts,
    watchdog: Watchdog,
    *,
    first: int,
    advance: Callable[..., None],
    profile: tuple[int, int] | None,
) -> Iterator[Recorder]:
    """The recorder of a phase that resumes after step `first`; it traces the steps `profile`, and moves the
    progress bar by `advance`.
    """
    run = phase.run
    # A life that begins after the last step only repeats the last evaluation.
    ended = first == run.steps
    metrics = MetricsWriter(phase.folder, first, active=is_first(), evaluates_again=ended)
    metrics.configuration(phase.serialized)
    profiler = Profiler(phase.folder, profile)
    # The schedule alone, not the optimizer: only the logged rate is wanted on the host.
    rates = Rates(run.optimizer.learning_rate(run.steps))
    # The first step takes as long as its compilation, during which no row is written.
    advance(0, "compiling the step")
    try:
        yield Recorder(
            metrics,
            ledger,
            watchdog,
            hosts,
            run.watch,
            profiler,
            source=source,
            learning_rate=rates,
            costs=costs_of(phase),
            advance=advance,
        )
    finally:
        profiler.close()
        metrics.close()
        ledger.close()
