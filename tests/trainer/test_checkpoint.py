"""Laws of checkpoints: what comes back is bit for bit what was saved, on any mesh, and nothing half-written
is listed.
"""

import multiprocessing
import resource
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline.files import OutputError
from model.sharding import letters_of, named
from tests.examples import MESHES, ONE_DEVICE, SIZES, host_params, under
from tests.trainer.saved_states import POSITION, RUN, assert_same_bits, like, saved, state_on
from trainer.checkpoints.checkpointer import Checkpointer, Checkpoints
from trainer.checkpoints.load import load_params, placed
from trainer.checkpoints.stored import checkpoint_path, read_run


@pytest.mark.parametrize("sizes", [ONE_DEVICE, *MESHES], ids=str)
def test_a_state_comes_back_bit_for_bit_on_any_mesh_and_lies_at_rest_there(sizes, tmp_path):
    saved(tmp_path).close()
    mesh, again = under(sizes), Checkpointer(tmp_path, Checkpoints(every_steps=2))
    with jax.set_mesh(mesh):
        assert again.verify_latest() == 3
        state = again.restore(3, like(mesh))
        assert_same_bits(state, state_on(mesh, 3))
        for path, x in jax.tree.leaves_with_path((state.trainable, state.opt_state)):
            letters = letters_of(getattr(path[-1], "key", ""))
            assert x.sharding.is_equivalent_to(named(mesh, letters, at_rest=True), x.ndim), path
        assert jax.random.uniform(state.key) == jax.random.uniform(state_on(mesh, 3).key)
    again.close()


def test_position_and_run_come_back_as_they_were_saved(tmp_path):
    checkpointer = saved(tmp_path)
    assert checkpointer.read_json(3, "position") == {**POSITION, "rows": 24}
    assert checkpointer.read_json(3, "run") == RUN == read_run(checkpoint_path(tmp_path))
    checkpointer.close()


def test_the_newest_are_kept_and_saving_a_step_again_changes_nothing(tmp_path):
    checkpointer = saved(tmp_path, (1, 2, 5))
    assert checkpointer.verify_latest() == 5
    assert sorted(path.name for path in checkpointer.folder.iterdir()) == ["2", "5"]
    with jax.set_mesh(under(MESHES[0])):
        checkpointer.save(state_on(under(MESHES[0]), 5), {"rows": -1}, RUN)
        checkpointer.wait()
    assert checkpointer.read_json(5, "position")["rows"] == 40
    checkpointer.close()


def test_a_save_is_due_after_every_so_many_steps(tmp_path):
    checkpointer = Checkpointer(tmp_path, Checkpoints(every_steps=3))
    assert [step for step in range(1, 10) if checkpointer.due(step)] == [3, 6, 9]


def test_a_half_written_step_is_not_listed_and_does_not_stand_in_the_way(tmp_path):
    saved(tmp_path).close()
    folder = tmp_path / "checkpoints"
    shutil.copytree(folder / "3", folder / "7.orbax-checkpoint-tmp-12")
    (folder / "7.orbax-checkpoint-tmp-12" / "run" / "metadata").unlink()
    assert checkpoint_path(tmp_path).name == "3"
    checkpointer = saved(tmp_path, (7,))
    assert checkpointer.verify_latest() == 7 and checkpointer.read_json(7, "position")["rows"] == 56
    assert sorted(path.name for path in folder.iterdir()) == ["3", "7"]
    checkpointer.close()


def test_a_folder_without_checkpoints_or_without_that_step_says_what_there_is(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="nowhere holds no checkpoint; name the folder of a trained phase"
    ):
        checkpoint_path(tmp_path / "nowhere")
    saved(tmp_path, (1, 2)).close()
    with pytest.raises(FileNotFoundError, match="holds no checkpoint of step 9; it has 1, 2"):
        checkpoint_path(tmp_path, 9)
    assert checkpoint_path(tmp_path, 1).name == "1"


@pytest.mark.parametrize("name", ["phase", "phase/checkpoints"])
def test_a_file_where_the_folder_should_be_is_one_sentence(name, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("in the way")
    with pytest.raises(
        OutputError,
        match=r"cannot save a checkpoint in .*phase/checkpoints: a file has that name; .* the same command$",
    ):
        Checkpointer(tmp_path / "phase", Checkpoints(every_steps=1))


def _save_to_a_full_disk(folder: Path) -> str:
    mesh = under(ONE_DEVICE)
    with jax.set_mesh(mesh):
        checkpointer = Checkpointer(folder, Checkpoints(every_steps=1))
        state = state_on(
            mesh, 1, {"w_DF": np.random.default_rng(0).normal(size=(512, 512)).astype(np.float32)}
        )
        resource.setrlimit(
            resource.RLIMIT_FSIZE, (200_000, 200_000)
        )  # a write beyond it fails, as on a full disk
        try:
            checkpointer.save(state, POSITION, RUN)
            checkpointer.wait()
        except OutputError as error:
            return str(error)
    return "nothing was raised"


def test_a_disk_without_room_is_one_sentence_and_leaves_no_step_that_looks_whole(tmp_path):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        message = pool.apply(_save_to_a_full_disk, (tmp_path,))
    assert (
        message.startswith(f"cannot save a checkpoint in {tmp_path}/checkpoints: ")
        and "\n" not in message
    )
    assert message.endswith("free space or choose another run folder, then run the same command")
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        checkpoint_path(tmp_path)


@pytest.mark.parametrize("sizes", [ONE_DEVICE, MESHES[1]], ids=str)
def test_parameters_of_a_phase_load_on_any_mesh_with_what_made_them(sizes, tmp_path):
    mesh = under(MESHES[0])
    with jax.set_mesh(mesh):
        checkpointer = Checkpointer(tmp_path / "sft", Checkpoints(every_steps=1))
        checkpointer.save(state_on(mesh, 4, host_params()), POSITION, RUN)
        checkpointer.close()
    with jax.set_mesh(under(sizes)):
        loaded = load_params(tmp_path / "sft")
    assert (loaded.architecture, loaded.step, loaded.tokenizer) == (
        SIZES,
        4,
        tmp_path / "data" / "tokenizer.model",
    )
    wanted = jax.tree.leaves(state_on(mesh, 4, host_params()).trainable)
    for (path, x), y in zip(jax.tree.leaves_with_path(loaded.params), wanted, strict=True):
        np.testing.assert_array_equal(x, np.asarray(y), err_msg=str(path))
        assert x.sharding.is_equivalent_to(
            named(under(sizes), letters_of(path[-1].key), at_rest=True), x.ndim
        ), path


def test_traced_shapes_are_bound_to_the_devices_of_the_mesh():
    mesh = under(MESHES[1])
    with jax.set_mesh(mesh):
        shapes = placed(
            jax.eval_shape(
                lambda key: {"step": jnp.zeros(()), "key": key, "x": jax.random.normal(key, (8,))},
                jax.random.key(0),
            )
        )
    assert all(leaf.sharding.mesh == mesh for leaf in jax.tree.leaves(shapes))
