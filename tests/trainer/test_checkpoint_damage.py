"""Laws of damage: whatever happens to the files of a checkpoint, what is restored is exactly what was saved
at its step or an older one.
"""

import logging
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from model.mesh import make_mesh
from tests.examples import MESHES, ONE_DEVICE, host_params, under
from tests.launch.command import environment, until
from tests.trainer.checkpoint_process import LARGE
from tests.trainer.saved_states import (
    POSITION,
    RUN,
    Events,
    assert_same_bits,
    bits,
    like,
    saved,
    state_on,
)
from trainer.checkpoints.checkpointer import Checkpointer, Checkpoints
from trainer.checkpoints.load import load_params
from trainer.checkpoints.manifest import NAME, files_of
from trainer.checkpoints.stored import Damaged, arrays_of, checkpoint_path, restore_params

MODES = ("full", "size", "off", "unhashed")  # unhashed: its writer was killed before the manifest


def flipped(path: Path, rnd: random.Random) -> None:
    data = bytearray(path.read_bytes())
    if data:
        data[rnd.randrange(len(data))] ^= 1 << rnd.randrange(8)
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path, random.Random], Any]] = {
    "truncate": lambda path, rnd: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path, rnd: path.write_bytes(b""),
    "flip": flipped,
    "another flip": flipped,
    "delete": lambda path, rnd: path.unlink(),
    "extra": lambda path, rnd: path.with_name("extra").write_bytes(b""),
}


@pytest.fixture(scope="module")
def three_steps(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("three")
    saved(folder, (1, 2, 3), mesh=under(ONE_DEVICE), keep=3).close()
    return folder


def damaged_copy(three_steps: Path, to: Path, name: str, kind: str, mode: str, seed: int) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(three_steps, to)
    newest = to / "checkpoints" / "3"
    if mode == "unhashed":
        (newest / NAME).unlink()
    DAMAGES[kind](newest / name, random.Random(seed))
    return to


def restored_step(folder: Path, mode: str) -> int:
    """The step that is restored; all of it is as it was saved."""
    mesh = under(ONE_DEVICE)
    checkpointer = Checkpointer(
        folder,
        Checkpoints(every_steps=2, verify="full" if mode == "unhashed" else mode),
        event=Events(),
    )
    with jax.set_mesh(mesh):
        step, state = checkpointer.restore_newest(like(mesh))
        assert bits(state) == bits(state_on(mesh, step))
    assert (
        checkpointer.read_json(step, "position") == {**POSITION, "rows": 8 * step}
        and checkpointer.read_json(step, "run") == RUN
    )
    checkpointer.close()
    return step


def cases(three_steps: Path) -> list[tuple[str, str, str]]:
    names = [*files_of(three_steps / "checkpoints" / "3"), NAME]
    return [
        (name, kind, mode)
        for mode in MODES
        for name in names
        for kind in DAMAGES
        if (name, mode) != (NAME, "unhashed")
    ]


def assert_harmless(three_steps: Path, to: Path, chosen: list[tuple[str, str, str]]) -> None:
    logging.disable(logging.CRITICAL)  # Orbax logs what it cannot read
    for seed, (name, kind, mode) in enumerate(chosen):
        step = restored_step(damaged_copy(three_steps, to, name, kind, mode, seed), mode)
        assert step in (
            (2,)
            if mode == "full" and name != NAME and not (name.endswith("commit_success.txt"))
            else (2, 3)
        ), (
            name,
            kind,
            mode,
        )
    logging.disable(logging.NOTSET)


def test_damage_to_any_file_gives_the_exact_newest_or_the_exact_one_before_it(
    three_steps, tmp_path
):
    everything = cases(three_steps)
    assert len(everything) > 600
    assert_harmless(three_steps, tmp_path / "x", random.Random(5).sample(everything, 16))


@pytest.mark.slow
def test_damage_of_every_kind_to_every_file_gives_the_exact_newest_or_the_exact_one_before_it(
    three_steps, tmp_path
):
    assert_harmless(three_steps, tmp_path / "x", cases(three_steps))


def test_what_is_damaged_is_set_aside_with_one_line_that_says_why(three_steps, tmp_path):
    shutil.copytree(three_steps, tmp_path / "x")
    folder, events = tmp_path / "x" / "checkpoints", Events()
    (folder / "3/position/metadata").write_text("{")
    flipped(folder / "2/run/metadata", random.Random(0))
    checkpointer = Checkpointer(tmp_path / "x", Checkpoints(every_steps=2), event=events)
    assert checkpointer.verify_latest() == 1 == checkpointer.verify_latest()
    assert [(step, what["why"]) for step, what in events.of("damaged")] == [
        (3, "position/metadata has 1 bytes instead of 33"),
        (2, "run/metadata has other contents"),
    ]
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2.damaged", "3.damaged"]
    assert checkpoint_path(tmp_path / "x").name == "1"
    shutil.rmtree(folder / "1/params/d")
    again = Checkpointer(tmp_path / "x", Checkpoints(every_steps=2, verify="off"), event=events)
    with jax.set_mesh(under(ONE_DEVICE)):
        assert (
            again.restore_newest(like(under(ONE_DEVICE))) is None
            and events.of("damaged")[-1][0] == 1
        )


def test_parameters_of_a_damaged_checkpoint_do_not_load(tmp_path):
    mesh = under(ONE_DEVICE)
    with jax.set_mesh(mesh):
        checkpointer = Checkpointer(tmp_path / "sft", Checkpoints(every_steps=1))
        checkpointer.save(state_on(mesh, 4, host_params()), POSITION, RUN)
        checkpointer.close()
        data = max(
            (tmp_path / "sft/checkpoints/4/params").rglob("d/*"),
            key=lambda path: path.stat().st_size,
        )
        contents = bytearray(data.read_bytes())
        contents[len(contents) // 2] ^= 4
        data.write_bytes(contents)
        with pytest.raises(
            Damaged,
            match=r"sft/checkpoints/4 is damaged: params\.\S+ has other values; use one of another step",
        ):
            load_params(tmp_path / "sft")
        data.write_bytes(contents[:-1])
        with pytest.raises(Damaged, match=r"params/\S+ has [\d,]+ bytes instead of [\d,]+"):
            load_params(tmp_path / "sft")


def test_another_type_or_shape_or_a_missing_array_is_refused_by_its_name(three_steps):
    mesh = under(ONE_DEVICE)
    wanted, int32, float32 = like(mesh), np.int32, np.float32

    def changed(**leaves: Any) -> Any:
        return wanted._replace(trainable={**wanted.trainable, **leaves})

    checkpointer = Checkpointer(three_steps, Checkpoints(every_steps=2))
    with jax.set_mesh(mesh):
        with pytest.raises(
            ValueError,
            match=r"w_DF is float32\[16, 6\] in the checkpoint and int32\[16, 6\] in this run",
        ):
            checkpointer.restore(3, changed(w_DF=jax.ShapeDtypeStruct((16, 6), int32)))
        with pytest.raises(
            ValueError,
            match=r"w_DF is float32\[16, 6\] in the checkpoint and float32\[16, 7\] in this run",
        ):
            checkpointer.restore(3, changed(w_DF=jax.ShapeDtypeStruct((16, 7), float32)))
        with pytest.raises(
            ValueError,
            match=r"params.trainable.b_F is not there in the checkpoint and float32\[6\] in this run",
        ):
            checkpointer.restore(3, changed(b_F=jax.ShapeDtypeStruct((6,), float32)))
        with pytest.raises(
            ValueError,
            match=r"params.trainable.w_DF is float32\[16, 6\] in the checkpoint and not known in this run",
        ):
            restore_params(
                three_steps / "checkpoints/3",
                {"trainable": {"blocks": wanted.trainable["blocks"]}, "frozen": {}},
            )
    assert checkpointer.verify_latest() == 3, "a wrong wish damages nothing"


MOMENTS = ("*.orbax-checkpoint-tmp", "*.orbax-checkpoint-tmp/*/*", "*/.manifest.json.partial")


def killed_while_saving(folder: Path, kills: int) -> list[int]:
    """Kill a process that saves without end, at `kills` moments; the newest step after each kill, which is
    exact.
    """
    mesh, rnd, newest, writing = (
        make_mesh(jax.devices()[:2], fsdp=2),
        random.Random(0),
        [0],
        folder / "checkpoints",
    )
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
        state_on(mesh, 1, LARGE),
    )
    for kill in range(kills):
        command = [
            sys.executable,
            "-m",
            "tests.trainer.checkpoint_process",
            "saving",
            str(folder),
            str(newest[-1] + 1),
        ]
        moment = MOMENTS[kill % len(MOMENTS)]
        with subprocess.Popen(
            command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            for _ in range(rnd.randrange(2, 5)):
                assert process.stdout.readline().startswith("asked for")
            until(lambda moment=moment: any(writing.glob(moment)), "a save that has begun")
            process.send_signal(signal.SIGKILL)
        checkpointer = Checkpointer(folder, Checkpoints(every_steps=1, keep=2), event=Events())
        with jax.set_mesh(mesh):
            step, state = checkpointer.restore_newest(shapes)
            assert_same_bits(state, state_on(mesh, step, LARGE))
        newest.append(step)
    return newest


def test_a_process_killed_while_it_saves_leaves_the_newest_whole_step_exact(tmp_path):
    steps = killed_while_saving(tmp_path, 2)
    assert steps == sorted(set(steps))


@pytest.mark.slow
def test_a_process_killed_at_many_moments_of_its_saves_leaves_the_newest_whole_step_exact(tmp_path):
    steps = killed_while_saving(tmp_path, 20)
    assert steps == sorted(set(steps))


def test_the_fingerprints_of_a_checkpoint_hold_on_every_mesh(three_steps):
    for sizes in MESHES[:2]:
        mesh = under(sizes)
        checkpointer = Checkpointer(three_steps, Checkpoints(every_steps=2, verify="off"))
        with jax.set_mesh(mesh):
            assert_same_bits(checkpointer.restore(3, like(mesh)), state_on(mesh, 3))
            assert set(arrays_of(like(mesh))) == {"params", "optimizer"}
