"""Laws of stored plans: made once, the same by whomever, and never half."""

import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.files import OutputError
from data_pipeline.rows import plan as plans
from data_pipeline.rows.pack import BestFit, Plan
from data_pipeline.rows.plan import plan_key, planned, stored_plan
from data_pipeline.shards.npy import new_array, read_array

LENGTHS = np.random.default_rng(0).integers(0, 60, 500)


def parts(lengths: np.ndarray = LENGTHS):
    return planned(len(lengths), lambda some: BestFit().plan(lengths[some], 32))


def assert_same(one: Plan, other: Plan) -> None:
    assert (
        one.pieces.tolist() == other.pieces.tolist()
        and one.offsets.tolist() == other.offsets.tolist()
    )


def test_a_stored_plan_is_the_plan_and_is_not_made_again(tmp_path):
    assert_same(stored_plan(tmp_path, "a", parts()), BestFit().plan(LENGTHS, 32))
    assert_same(stored_plan(tmp_path, "a", iter(())), BestFit().plan(LENGTHS, 32))


def test_a_plan_of_many_blocks_has_every_document_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(plans, "DOCUMENTS_A_BLOCK", 64)
    found = stored_plan(tmp_path, "a", parts())
    assert (
        found.offsets[0] == 0
        and (np.diff(found.offsets) > 0).all()
        and found.offsets[-1] == len(found.pieces)
    )
    assert sorted(found.pieces.tolist()) == sorted(BestFit().plan(LENGTHS, 32).pieces.tolist())
    assert all(found.row(i)[:, 2].sum() <= 32 for i in range(len(found)))


def test_no_documents_make_a_plan_without_rows(tmp_path):
    assert len(stored_plan(tmp_path, "a", parts(np.zeros(0, np.int64)))) == 0


def test_a_folder_that_cannot_be_written_to_gives_the_same_plan(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert_same(stored_plan(tmp_path, "a", parts()), BestFit().plan(LENGTHS, 32))
    assert not list(tmp_path.iterdir())


def _make(folder: Path) -> list:
    return stored_plan(folder, "a", parts()).pieces.tolist()


def test_processes_that_make_a_plan_at_once_agree(tmp_path):
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        found = pool.map(_make, [tmp_path] * 6, chunksize=1)
    assert all(pieces == BestFit().plan(LENGTHS, 32).pieces.tolist() for pieces in found)
    assert sorted(path.name for path in (tmp_path / "plans").iterdir()) == [
        "a-offsets.npy",
        "a-pieces.npy",
    ]


def _killed(folder: Path) -> None:
    def dying():
        yield from parts()
        os.kill(os.getpid(), signal.SIGKILL)

    stored_plan(folder, "a", dying())


def test_a_kill_while_a_plan_is_made_leaves_none(tmp_path):
    child = multiprocessing.get_context("spawn").Process(target=_killed, args=(tmp_path,))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL and not (tmp_path / "plans" / "a-offsets.npy").exists()
    assert_same(stored_plan(tmp_path, "a", parts()), BestFit().plan(LENGTHS, 32))


@pytest.mark.parametrize("file", ["a-pieces.npy", "a-offsets.npy"])
def test_a_damaged_plan_is_named_with_a_remedy(file, tmp_path):
    stored_plan(tmp_path, "a", parts())
    path = tmp_path / "plans" / file
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(
        ValueError, match="plans cannot be read .*; delete it, plans are made again from the shards"
    ):
        stored_plan(tmp_path, "a", parts())


def test_files_of_two_plans_are_not_taken_for_one(tmp_path):
    stored_plan(tmp_path, "a", parts())
    stored_plan(tmp_path, "b", parts(LENGTHS[:-1]))
    (tmp_path / "plans" / "b-pieces.npy").replace(tmp_path / "plans" / "a-pieces.npy")
    with pytest.raises(
        ValueError, match=r"a-offsets.npy does not belong to .*a-pieces.npy; delete"
    ):
        stored_plan(tmp_path, "a", parts())


def test_a_plan_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "plans").write_text("in the way")
    with pytest.raises(OutputError, match="cannot write .*; free space there"):
        stored_plan(tmp_path, "a", parts())


def test_a_key_depends_on_every_part():
    assert len({plan_key("a", 1), plan_key("a", 2), plan_key("b", 1), plan_key(["a", 1])}) == 4


def test_an_array_grows_in_its_file_and_appears_at_the_end(tmp_path):
    path, rows = tmp_path / "x.npy", np.arange(3000).reshape(-1, 3)
    with new_array(path, np.int64, (3,)) as append:
        for first in range(0, 1000, 7):
            append(rows[first : first + 7])
            assert not path.exists()
    assert read_array(path).tolist() == rows.tolist()
    with pytest.raises(KeyError), new_array(path, np.int64, (3,)) as append:
        append(rows[:5])
        raise KeyError
    assert read_array(path).tolist() == rows.tolist() and [
        file.name for file in tmp_path.iterdir()
    ] == ["x.npy"]
