"""A phase that does nothing but take steps together, for tests of what happens when one process no longer
does; by `--import`.
"""

import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from model.mesh import make_mesh
from tests.launch.toy import DeviceWork
from trainer.cluster.hosts import Hosts
from trainer.cluster.replicas import check
from trainer.cluster.signals import StopSignals
from trainer.cluster.watchdog import Watchdog
from trainer.ending import Stopped


class Turns(DeviceWork):
    """`steps` sums over all devices. Each process keeps its step in `step-I`; one that finds `stuck-I`,
    `fails-I` or `slow-I` does so.

    Where a file `flip-I` is found, process I keeps a wrong bit in its copy of a replicated array, and all
    compare theirs.
    """

    steps: int = 1_000_000
    limit_s: float | None = None
    save_s: float = 0.0

    def execute(self, folder: Path, *, job_folder: Path) -> None:
        """Take steps until the end, or until a signal."""
        mesh = make_mesh(data=jax.device_count())
        total = jax.jit(
            lambda x: jnp.sum(x * x), out_shardings=NamedSharding(mesh, PartitionSpec())
        )
        with (
            Hosts() as hosts,
            Watchdog(self.limit_s, folder=folder, hosts=hosts) as watchdog,
            StopSignals() as signals,
        ):
            for step in range(1, self.steps + 1):
                began = time.perf_counter()
                watchdog.beat(step)
                x = jax.make_array_from_callback(
                    (24,),
                    NamedSharding(mesh, PartitionSpec("data")),
                    lambda index: np.arange(24.0)[index],
                )
                time.sleep(0.005)
                self._obey(folder, hosts.process)
                own_s = time.perf_counter() - began
                total(x).block_until_ready()
                step_s = time.perf_counter() - began
                row, straggler = hosts.gather(step_s, device_wait_s=step_s - own_s)
                self._tell(folder, hosts.process, step, row, straggler)
                if step % 100 == 0:
                    self._compare(folder, hosts.process, mesh)
                if stop := signals.reached():
                    print("is saving", flush=True)
                    with watchdog.paused():
                        time.sleep(self.save_s)
                    (folder / f"saved-{hosts.process}").write_text(str(step))
                    raise Stopped(stop, step)

    def _obey(self, folder: Path, process: int) -> None:
        if (folder / f"stuck-{process}").exists():
            time.sleep(10_000)
        if (folder / f"fails-{process}").exists():
            raise FileNotFoundError(2, "No such file or directory", "shard-7")
        if (folder / f"slow-{process}").exists():
            time.sleep(0.05)

    def _compare(self, folder: Path, process: int, mesh: jax.sharding.Mesh) -> None:
        bits = np.arange(5, dtype=np.uint32)
        bits[3] ^= (folder / f"flip-{process}").exists() << 17
        replicated = NamedSharding(mesh, PartitionSpec())
        x = jax.make_array_from_single_device_arrays(
            (5,), replicated, [jax.device_put(bits, jax.local_devices()[0])]
        )
        if found := check({"x": x}, mesh):
            (folder / f"differs-{process}").write_text("\n".join(found))

    def _tell(
        self, folder: Path, process: int, step: int, row: dict[str, Any], straggler: str
    ) -> None:
        (folder / f"step-{process}").write_text(str(step))
        if straggler:
            (folder / f"straggler-{process}").write_text(f"{straggler} {row}")
