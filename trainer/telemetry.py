"""What watches a phase, and writes down how it trains, opened and closed together."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from trainer.batches.source import BatchSource
from trainer.cluster.hosts import Hosts
from trainer.cluster.watchdog import Watchdog
from trainer.phase import Phase
from trainer.records.costs import Rates, costs_of
from trainer.records.goodput import Ledger
from trainer.records.metrics import MetricsWriter
from trainer.records.profiler import Profiler
from trainer.records.recorder import Recorder


@contextlib.contextmanager
def watching(run: Any, folder: Path) -> Iterator[tuple[Hosts, Watchdog]]:
    """Who looks after the processes of a phase, from before its state is restored."""
    with Hosts() as hosts, Watchdog(run.guard.hang_s, folder=folder, hosts=hosts) as watchdog:
        yield hosts, watchdog


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
) -> Iterator[tuple[Recorder, Profiler]]:
    """The recorder of a phase that goes on after `first` steps, and the profiler of the steps `profile`.

    `advance` moves the progress bar.
    """
    run = phase.run
    metrics = MetricsWriter(phase.folder, first, active=jax.process_index() == 0)
    profiler = Profiler(phase.folder, profile)
    try:
        facts = {
            "source": source,
            "learning_rate": Rates(run.optimizer.learning_rate(run.steps)),
            "costs": costs_of(phase),
        }
        yield Recorder(metrics, ledger, watchdog, hosts, run.watch, advance=advance, **facts), profiler
    finally:
        profiler.close()
        metrics.close()
        ledger.close()
