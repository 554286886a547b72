"""What watches a phase while it trains, opened and closed together."""

import contextlib
from collections.abc import Callable, Iterator

import jax

from model.recompute import hardware_flops_per_token_of
from model.size import flops_per_token_of
from trainer.cluster.hosts import Hosts
from trainer.cluster.watchdog import Watchdog
from trainer.goodput import Ledger
from trainer.metrics import MetricsWriter
from trainer.phase import Phase
from trainer.position import batch_size_at
from trainer.profile import peak_flops
from trainer.profiler import Profiler
from trainer.recorder import Costs, Recorder
from trainer.source import BatchSource


@contextlib.contextmanager
def recording(
    phase: Phase, source: BatchSource, ledger: Ledger, *, first: int, advance: Callable[..., None], profile: tuple[int, int] | None
) -> Iterator[tuple[Recorder, Profiler]]:
    """The recorder of a phase that goes on after `first` steps, and the profiler of the steps `profile`; the watchdog is at work.

    `advance` moves the progress bar.
    """
    run = phase.run
    metrics = MetricsWriter(phase.folder, first, active=jax.process_index() == 0)
    profiler = Profiler(phase.folder, profile)
    try:
        with Hosts() as hosts, Watchdog(run.guard.hang_s, folder=phase.folder, hosts=hosts) as watchdog:
            facts = {"source": source, "learning_rate": run.optimizer.learning_rate(run.steps), "costs": _costs(phase)}
            yield Recorder(metrics, ledger, watchdog, hosts, run.watch, advance=advance, **facts), profiler
    finally:
        profiler.close()
        metrics.close()
        ledger.close()


def _costs(phase: Phase) -> Costs:
    run, data, of = phase.run, phase.run.data, (phase.run.architecture, phase.shapes.trainable)
    flops = flops_per_token_of(*of, length=data.seq_len)
    computed = hardware_flops_per_token_of(*of, length=data.seq_len, execution=run.execution)

    def tokens_of(step: int) -> int:
        return batch_size_at(step, data.batch_size, run.batch_ramp) * data.seq_len

    return Costs(tokens_of, peak_flops(jax.devices()[0]) * phase.mesh.size / flops, hardware_ratio=computed / flops)
