"""Every test runs on 8 CPU devices with jaxtyping's annotations checked by beartype; all set before jax or
our packages are imported.
"""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from jaxtyping import install_import_hook

# compiled programs are kept between processes and runs: most of a test's time would be compiling them again
CACHE = Path(tempfile.gettempdir()) / f"meshwright-tests-{os.getuid()}" / "jax"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join(
    (
        "--xla_force_host_platform_device_count=8",
        # the launcher's flag is pinned too: a test that calls the command in this process must not change
        # what later tests compute
        "--xla_cpu_experimental_onednn_custom_call=false",
        # a test compiles for seconds what it runs for milliseconds; processes of their own compile as users'
        # do where that matters (tests/launch/command.py)
        "--xla_backend_optimization_level=0",
    )
)
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
for name in (
    "JAX_COORDINATOR_ADDRESS",
    "JAX_NUM_PROCESSES",
    "JAX_PROCESS_ID",
    "MESHWRIGHT_TRACEBACK",
):
    os.environ.pop(name, None)

# A shell has SIGINT ignored for what it starts in the background, and ignored it stays in all processes of the
# tests, many of which are sent one.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No example fails for the time it takes: machines are shared, and first examples build tables.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")

_hook = install_import_hook(
    ["launch", "trainer", "model", "data_pipeline", "inference"], "beartype.beartype"
)


@pytest.fixture(autouse=True)
def components_of_others_stay_where_they_are() -> Iterator[None]:
    """A module that a test brings in by `--import` is not known to the next one."""
    from data_pipeline import component  # after the import hook

    before = list(component.imported_by_user)
    yield
    component.imported_by_user[:] = before


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return Path(__file__).parent.parent
