"""Comparing keys across documents: the same verdict however the keys are spread, in bounded memory, on one
machine and on Ray.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.engine import tables

KEYS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12)


def write(folder, columns, n_files):
    folder.mkdir(exist_ok=True)
    table = pa.table(columns)
    for i in range(n_files):
        pq.write_table(
            table.take(np.arange(table.num_rows)[::-1][i::n_files]), folder / f"{i}.parquet"
        )
    return sorted(folder.iterdir())


def written(paths, folder):
    tables.write_table(folder / "out.parquet", pa.table(tables.clusters(paths, ("a", "b"))))
    return (folder / "out.parquet").read_bytes()


def lowest_of_each(rows):
    """Document → lowest of its cluster, by joining until nothing changes."""
    lowest = list(range(len(rows)))
    for _ in rows:
        for i, mine in enumerate(rows):
            for j, other in enumerate(rows):
                if any(a == b != 0 for a, b in zip(mine, other, strict=True)):
                    lowest[i] = lowest[j] = min(lowest[i], lowest[j])
    return lowest


@settings(max_examples=12)
@given(KEYS, st.integers(1, 3))
def test_clusters_are_the_documents_joined_by_chains_of_shared_keys(
    tmp_path_factory, rows, n_files
):
    array = np.array(rows, np.uint64).reshape(-1, 2)
    columns = {"document": np.arange(len(rows)), "a": array[:, 0], "b": array[:, 1]}
    found = tables.clusters(write(tmp_path_factory.mktemp("keys"), columns, n_files), ("a", "b"))
    lowest = lowest_of_each(rows)
    expected = [
        (i, low, lowest.count(low)) for i, low in enumerate(lowest) if lowest.count(low) > 1
    ]
    assert list(zip(*(values.tolist() for values in found.values()), strict=True)) == expected


def random_keys(n, n_bands, seed=0):
    """Keys of which a tenth are repeated somewhere."""
    generator = np.random.default_rng(seed)
    keys = {
        f"band_{i:02}": generator.integers(1, 1 << 64, n, dtype=np.uint64, endpoint=False)
        for i in range(n_bands)
    }
    for values in keys.values():
        repeated = generator.random(n) < 0.1
        values[repeated] = generator.integers(1, n, repeated.sum(), dtype=np.uint64)
    return {"document": np.arange(n), **keys}


def test_the_same_bytes_however_keys_are_spread_and_however_many_a_query_takes(
    tmp_path, monkeypatch
):
    keys = random_keys(500, 2)
    keys["a"], keys["b"] = keys.pop("band_00"), keys.pop("band_01")
    whole = written(write(tmp_path / "one", keys, 1), tmp_path)
    assert written(write(tmp_path / "three", keys, 3), tmp_path) == whole
    monkeypatch.setattr(tables, "KEYS_A_QUERY", 70)
    assert written(write(tmp_path / "one", keys, 1), tmp_path) == whole


def test_a_key_twice_in_one_document_counts_once_and_no_key_never(tmp_path):
    lists = [[5, 5, 5], [7, 5, 0], [], [7, 0], [5]]
    columns = {"document": [10, 11, 12, 13, 14], "lines": pa.array(lists, pa.list_(pa.uint64()))}
    paths = write(tmp_path, columns, 2)
    assert [values.tolist() for values in tables.shared(paths, "lines", more_than=1)] == [
        [5, 7],
        [10, 11],
        [3, 2],
    ]
    assert [values.tolist() for values in tables.shared(paths, "lines", more_than=2)] == [
        [5],
        [10],
        [3],
    ]


def test_keys_beyond_63_bits_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "KEYS_A_QUERY", 2)
    keys = np.array([2**64 - 1, 2**64 - 2, 2**63, 2**64 - 1], np.uint64)
    found = tables.shared(
        write(tmp_path, {"document": np.arange(4), "key": keys}, 1), "key", more_than=1
    )
    assert [values.tolist() for values in found] == [[2**64 - 1], [0], [2]]


def test_a_folder_is_never_taken_for_a_url_or_a_pattern(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("a:b [1] {2,3} *?")
    columns = {"document": np.arange(2), "a": np.array([7, 7], np.uint64)}
    paths = [folder / path.name for path in write(folder, columns, 1)]
    assert tables.shared(paths, "a", more_than=1).keys.tolist() == [7]


def test_files_without_documents_are_passed_over(tmp_path):
    pq.write_table(pa.table({"empty": pa.array([], pa.bool_())}), tmp_path / "none.parquet")
    assert not len(tables.clusters([tmp_path / "none.parquet"], ("key",))["document"])
    full = write(tmp_path / "full", {"document": [3, 8], "key": np.array([4, 4], np.uint64)}, 1)
    assert tables.clusters([tmp_path / "none.parquet", *full], ("key",))["cluster"].tolist() == [
        3,
        3,
    ]


RESOLVE = """
import resource, sys
from pathlib import Path
{prepare}
from data_pipeline.clean.line_dedup import LineDedup
from data_pipeline.clean.near_dedup import NearDedup
if __name__ == "__main__":
    near = NearDedup(sources=("web",), max_removed_frac=1.0, bands=int(sys.argv[3]))
    lines = LineDedup(sources=("web",), part="line", max_documents=1, min_words=1, max_removed_frac=1.0)
    folder = Path(sys.argv[1])
    (near if sys.argv[2] == "near" else lines).resolve(sorted((folder / "keys").iterdir()), folder / "out.parquet")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
RAY = """
import daft, ray
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
daft.set_runner_ray()
"""


def resolve(folder, repository, kind, n_bands=14, prepare=""):
    """(bytes of the verdicts, peak memory in bytes) of a process of its own: the runner is chosen once a
    process.
    """
    script = RESOLVE.format(prepare=prepare)
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder), kind, str(n_bands)],
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return (folder / "out.parquet").read_bytes(), int(done.stdout.split()[-1]) * 1024


@pytest.mark.slow
def test_a_million_documents_are_compared_in_less_than_2_gb(tmp_path, repository):
    write(tmp_path / "keys", random_keys(1_000_000, 14), 8)
    _, peak_bytes = resolve(tmp_path, repository, "near")
    assert peak_bytes < 2e9
    assert pq.read_metadata(tmp_path / "out.parquet").num_rows > 100_000


@pytest.mark.slow
def test_the_lines_of_a_million_documents_are_compared_in_less_than_2_gb(tmp_path, repository):
    generator = np.random.default_rng(0)
    (tmp_path / "keys").mkdir()
    for i in range(8):
        keys = generator.integers(1, 1 << 64, 125_000 * 20, dtype=np.uint64, endpoint=False)
        keys[generator.random(len(keys)) < 0.1] %= 100_000
        lists = pa.ListArray.from_arrays(
            pa.array(np.arange(0, len(keys) + 1, 20, dtype=np.int32)), pa.array(keys)
        )
        pq.write_table(
            pa.table({"document": np.arange(125_000) + i * 125_000, "lines": lists}),
            tmp_path / "keys" / f"{i}.parquet",
        )
    _, peak_bytes = resolve(tmp_path, repository, "lines")
    assert peak_bytes < 2e9
    assert pq.read_metadata(tmp_path / "out.parquet").num_rows > 1_000_000


@pytest.mark.slow
def test_verdicts_on_ray_are_those_of_one_machine_byte_for_byte(tmp_path, repository):
    write(tmp_path / "keys", random_keys(3_000, 3), 4)
    one_machine, _ = resolve(tmp_path, repository, "near", 3)
    assert resolve(tmp_path, repository, "near", 3, RAY)[0] == one_machine
