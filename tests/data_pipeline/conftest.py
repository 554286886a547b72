"""The small data job, done once for all tests that only read it."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def raw(tmp_path_factory) -> Path:
    from tests.data_pipeline.small_job import make_raw  # after the import hook of tests/conftest.py

    return make_raw(tmp_path_factory.mktemp("raw"))


@pytest.fixture(scope="session")
def data(raw, tmp_path_factory) -> Path:
    """What the job writes, run without interruption."""
    from tests.data_pipeline.small_job import prepare

    folder = tmp_path_factory.mktemp("job") / "data"
    prepare(raw).execute(folder, job_folder=folder.parent)
    return folder
