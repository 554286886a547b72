"""What watches a phase while it trains, opened and closed together."""

import contextlib
from collections.abc import Callable, Iterator

import jax

from model.size import flops_per_token_of
from trainer.goodput import Ledger
from trainer.hosts import Hosts
from trainer.metrics import MetricsWriter
from trainer.phase import Phase
from trainer.position import batch_size_at
from trainer.profile import peak_flops
from trainer.recorder import Costs, Recorder
from trainer.source import BatchSource
from trainer.watchdog import Watchdog


@contextlib.contextmanager
def recording(phase: Phase, source: BatchSource, ledger: Ledger, *, first: int, advance: Callable[..., None]) -> Iterator[Recorder]:
    """The recorder of a phase that goes on after `first` steps, with the watchdog at work; `advance` moves the progress bar."""
    run = phase.run
    metrics = MetricsWriter(phase.folder, first, active=jax.process_index() == 0)
    try:
        with Hosts() as hosts, Watchdog(run.guard.hang_s, folder=phase.folder, hosts=hosts) as watchdog:
            facts = {"source": source, "learning_rate": run.optimizer.learning_rate(run.steps), "costs": _costs(phase)}
            yield Recorder(metrics, ledger, watchdog, hosts, run.watch, advance=advance, **facts)
    finally:
        metrics.close()
        ledger.close()


def _costs(phase: Phase) -> Costs:
    run, data = phase.run, phase.run.data
    flops = flops_per_token_of(run.architecture, phase.shapes.trainable, length=data.seq_len)

    def tokens_of(step: int) -> int:
        return batch_size_at(step, data.batch_size, run.batch_ramp) * data.seq_len

    return Costs(tokens_of, peak_flops(jax.devices()[0]) * phase.mesh.size / flops, hardware_ratio=1.0)
