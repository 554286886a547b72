"""Laws of the engine: every task once, whoever does it and whoever dies."""

import os
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipeline.engine.runner import Engine, WorkerLost
from data_pipeline.engine.shuffle import by_key, rounds
from data_pipeline.files import OutputError


def double(factor: int, task: int) -> tuple[int, int]:
    return factor * task, os.getpid()


def fail(task: int) -> None:
    raise OutputError(f"cannot write {task}")


def die_once(folder: Path, task: int) -> int:
    if task == 2 and not (folder / "died").exists():
        (folder / "died").write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def die(task: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def total(rows: pa.Table) -> tuple[int, int]:
    return rows["key"][0].as_py(), sum(rows["value"].to_pylist())


@pytest.mark.parametrize("workers", [1, 2])
def test_every_task_is_done_once_and_told_with_its_number(workers):
    done = dict(Engine(workers=workers).map(partial(double, 3), [5, 6, 7]))
    assert {number: value for number, (value, _) in done.items()} == {0: 15, 1: 18, 2: 21}
    assert (os.getpid() in {process for _, process in done.values()}) == (workers == 1)


def test_one_task_needs_no_process_and_none_no_worker():
    assert list(Engine(workers=2).map(partial(double, 3), [5])) == [(0, (15, os.getpid()))]
    assert not list(Engine(workers=2).map(partial(double, 3), []))


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_task_raises_is_raised_as_it_is(workers):
    with pytest.raises(OutputError, match="cannot write [12]"):
        list(Engine(workers=workers).map(fail, [1, 2]))


def test_tasks_of_a_worker_that_died_are_done_by_another(tmp_path):
    done = list(Engine(workers=2).map(partial(die_once, tmp_path), [1, 2, 3, 4]))
    assert sorted(done) == [(0, 1), (1, 2), (2, 3), (3, 4)] and (tmp_path / "died").exists()


def test_work_that_kills_every_worker_ends_with_a_sentence():
    with pytest.raises(WorkerLost, match="workers died 3 times in a row"):
        list(Engine(workers=2).map(die, [1, 2]))


def test_rows_of_a_key_come_together_from_all_files_and_no_other_key_is_touched(tmp_path):
    rng, files = np.random.default_rng(0), []
    for i in range(3):
        key = np.sort(rng.integers(0, 9, 400))
        files.append(tmp_path / f"{i}.parquet")
        pq.write_table(
            pa.table({"key": key, "value": rng.integers(0, 100, 400)}), files[-1], row_group_size=50
        )
    whole = pa.concat_tables(map(pq.read_table, files)).to_pydict()
    expected = {
        k: sum(v for at, v in zip(whole["key"], whole["value"], strict=True) if at == k)
        for k in (1, 2, 7)
    }
    assert (
        dict(by_key(Engine(workers=1), files, "key", total, sizes={1: 9, 2: 9, 7: 9})) == expected
    )


def test_rounds_hold_all_keys_in_order_within_the_bytes_of_one():
    sizes = {3: 300 << 20, 1: 300 << 20, 2: 100 << 20, 9: 600 << 20}
    assert list(rounds(sizes, None)) == [(1, 2), (3, 3), (9, 9)] or list(rounds(sizes, None)) == [
        (1, 3),
        (9, 9),
    ]
    assert list(rounds(sizes, 4)) == [(1, 9)]
