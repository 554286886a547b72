"""Laws of keeping: which checkpoints stay, the fast local copy, going back."""

import datetime
import shutil
from pathlib import Path

import jax
import pytest
from pydantic import ValidationError

from tests.examples import ONE_DEVICE, under
from tests.trainer.saved_states import (
    POSITION,
    RUN,
    Events,
    assert_same_bits,
    like,
    saved,
    state_on,
)
from trainer.checkpoints.checkpointer import Checkpoints
from trainer.checkpoints.retention import Best, Kept, superseded

MESH = ONE_DEVICE


def left(folder: Path) -> list[int]:
    return sorted(
        int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdigit()
    )


def stays(
    settings: Checkpoints, losses: dict[int, float | None], *, seconds_a_step: int = 10
) -> list[int]:
    """What is left of checkpoints saved one after another, each time after the rules were kept."""
    kept: list[Kept] = []
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    for step, loss in losses.items():
        metrics = None if loss is None else {"eval/web/loss": loss}
        kept.append(Kept(step, start + datetime.timedelta(seconds=seconds_a_step * step), metrics))
        gone = superseded(kept, settings)
        kept = [each for each in kept if each.step not in gone]
    return [each.step for each in kept]


STEPS = dict.fromkeys(range(2, 41, 2), None)
LOSSES = {2: 3.0, 4: 1.0, 6: 2.0, 8: 1.5, 10: None, 12: 2.5, 14: 2.0}


@pytest.mark.parametrize(
    "more, losses, wanted",
    [
        ({"keep": 3}, STEPS, [36, 38, 40]),
        ({"keep": 1, "keep_every_steps": 12}, STEPS, [12, 24, 36, 40]),
        ({"keep": 1, "keep_every_s": 150}, STEPS, [2, 18, 34, 40]),
        (
            {"keep": 2, "best": Best(metric="eval/web/loss", better="lower", keep=2)},
            LOSSES,
            [4, 8, 12, 14],
        ),
        ({"keep": 1, "best": Best(metric="eval/web/loss", better="higher")}, LOSSES, [2, 14]),
    ],
    ids=["newest", "every so many steps", "every so many seconds", "the two lowest", "the highest"],
)
def test_what_no_rule_keeps_goes(more, losses, wanted):
    assert stays(Checkpoints(every_steps=2, **more), losses) == wanted


def test_the_best_by_a_metric_stays_on_the_disk_over_several_lives(tmp_path):
    losses = {1: 3.0, 2: 1.0, 3: 2.0, 4: float("nan"), 5: 1.5}
    settings = {
        "keep": 1,
        "best": Best(metric="eval/web/loss", better="lower"),
        "mesh": under(MESH),
    }
    for steps in ((1, 2, 3), (4, 5)):
        saved(
            tmp_path,
            steps,
            numbers=lambda step: {"eval/web/loss": losses[step], "other": 0.0},
            **settings,
        ).close()
    assert left(tmp_path) == [2, 5]


def test_the_newer_of_the_local_and_the_durable_copy_is_resumed_from_and_the_end_is_durable(
    tmp_path,
):
    mesh, events = under(MESH), Events()
    settings = {
        "every_steps": 4,
        "local": str(tmp_path / "fast"),
        "local_every_steps": 1,
        "mesh": mesh,
        "event": events,
    }
    checkpointer = saved(tmp_path / "run", (), **settings)
    with jax.set_mesh(mesh):
        for step in (3, 4, 5, 6):
            checkpointer.save(state_on(mesh, step), {**POSITION, "rows": 8 * step}, RUN)
        assert [step for step in range(9) if checkpointer.due(step)] == list(range(9))
    checkpointer._finish_running()  # as when it is killed now: nothing asks for the end
    local = next((tmp_path / "fast").iterdir())
    assert left(tmp_path / "run") == [4] and [
        path.name for path in local.iterdir() if path.name.isdigit()
    ] == ["6"]
    again = saved(tmp_path / "run", (), **settings)
    with jax.set_mesh(mesh):
        step, state = again.restore_newest(like(mesh))
        assert step == 6 and again.read_json(6, "position")["rows"] == 48
        assert_same_bits(state, state_on(mesh, 6))
        (local / "6/position/metadata").write_text("{")
        fallen = saved(tmp_path / "run", (), **settings)
        assert fallen.verify_latest() == 4 and events.of("damaged")[-1][0] == 6
        fallen.save(state_on(mesh, 5), POSITION, RUN)
        fallen.close()
    assert left(tmp_path / "run") == [4, 5], "what is asked last is durable at the end"


def test_local_copies_of_a_run_that_is_deleted_are_no_part_of_the_next_one_at_its_place(tmp_path):
    settings = {
        "every_steps": 9,
        "local": str(tmp_path / "fast"),
        "local_every_steps": 1,
        "mesh": under(MESH),
    }
    saved(tmp_path / "run", (3,), **settings)._finish_running()
    shutil.rmtree(tmp_path / "run")
    assert saved(tmp_path / "run", (), **settings).verify_latest() is None


def test_half_of_the_local_settings_is_refused():
    with pytest.raises(
        ValidationError,
        match="local=/dev/shm and local_every_steps=None belong together; set both or none",
    ):
        Checkpoints(every_steps=1, local="/dev/shm")


def test_going_back_finds_the_newest_step_before_and_forgets_those_behind(tmp_path):
    mesh = under(MESH)
    checkpointer = saved(tmp_path, (2, 4, 6, 8), keep=5, mesh=mesh)
    assert [checkpointer.verify_before(step) for step in (1, 2, 5, 6, 9)] == [None, 2, 4, 6, 8]
    with jax.set_mesh(mesh):
        checkpointer.save(state_on(mesh, 10), POSITION, RUN)
        checkpointer.drop_after(4)
        assert left(tmp_path) == [2, 4] and checkpointer.verify_latest() == 4
        checkpointer.save(state_on(mesh, 6), {**POSITION, "rows": -1}, RUN)
        checkpointer.close()
    assert checkpointer.verify_latest() == 6 and checkpointer.read_json(6, "position")["rows"] == -1


def test_a_save_in_parts_is_the_same_and_its_memory_is_said(tmp_path):
    mesh, events = under(MESH), Events()
    checkpointer = saved(tmp_path, (3,), mesh=mesh, host_gb=1, event=events)
    with jax.set_mesh(mesh):
        assert_same_bits(checkpointer.restore(3, like(mesh)), state_on(mesh, 3))
    ((step, what),) = events.of("saved")
    assert (
        step == 3
        and what["peak_host_bytes"] >= 0
        and min(what[name] for name in ("save_s", "stall_s", "hash_s")) > 0
    )
    checkpointer.close()
