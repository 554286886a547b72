"""Checkpoints by Orbax: parameters and optimizer state as arrays, the data position and the serialized Run as JSON beside them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from pydantic import BaseModel, PositiveInt

from data_pipeline.files import OutputError
from model.stages import in_memory_order, in_model_order
from trainer.state import TrainState


class Checkpoints(BaseModel, frozen=True, extra="forbid", strict=True):
    """Save every `every_steps` and at the end; keep the newest `keep`."""

    every_steps: PositiveInt
    keep: PositiveInt = 2


class Checkpointer:
    """The checkpoints of one phase, in `folder/checkpoints/<step>`.

    A step appears under its name when all of it is written (Orbax renames it). Saving is asynchronous: the state is copied, and the
    step goes on; an error of a save is raised by the next call. On the disk layers are in the order of the model, so that any mesh can
    go on; `rounds` is how often a pipeline's stages are passed here.
    """

    def __init__(self, folder: Path, settings: Checkpoints, *, rounds: int = 1):
        self.folder, self.settings, self.rounds = folder / "checkpoints", settings, rounds
        with _said(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            options = ocp.CheckpointManagerOptions(max_to_keep=settings.keep, cleanup_tmp_directories=True, enable_async_checkpointing=True)
            self._manager = ocp.CheckpointManager(self.folder.resolve(), options=options)

    def latest(self) -> int | None:
        """The newest whole step."""
        return self._manager.latest_step()

    def due(self, step: int) -> bool:
        """Whether the settings ask for a save after this step."""
        return step % self.settings.every_steps == 0

    def save(self, state: TrainState, position: dict[str, Any], run: dict[str, Any]) -> None:
        """Begin to save the state after `state.step` steps; nothing happens if that step is saved already."""
        step = int(state.step)
        if step == self._manager.latest_step():
            return
        state = in_model_order(state, rounds=self.rounds)
        items = ocp.args.Composite(
            params=ocp.args.StandardSave({"trainable": state.trainable, "frozen": state.frozen}),
            optimizer=ocp.args.StandardSave(_rest(state)),
            position=ocp.args.JsonSave(position),
            run=ocp.args.JsonSave(run),
        )
        with _said(self.folder):
            self._manager.check_for_errors()
            self._manager.save(step, args=items, force=True)

    def wait(self) -> None:
        """Until what was begun is on the disk."""
        with _said(self.folder):
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

    def close(self) -> None:
        """Wait, and give the resources back."""
        self.wait()
        self._manager.close()

    def read_json(self, step: int, item: str) -> dict[str, Any]:
        """`position` or `run` of a step."""
        return self._manager.restore(step, args=ocp.args.Composite(**{item: ocp.args.JsonRestore()}))[item]

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The state of a step, laid out as the shapes of `like` say."""
        params = {"trainable": like.trainable, "frozen": like.frozen}
        wanted = ocp.args.Composite(params=ocp.args.StandardRestore(params), optimizer=ocp.args.StandardRestore(_rest(like)))
        found = self._manager.restore(step, args=wanted)
        rest = found["optimizer"]
        state = TrainState(rest["step"], **found["params"], opt_state=rest["opt_state"], key=jax.random.wrap_key_data(rest["key"]))
        return in_memory_order(state, rounds=self.rounds)


def _rest(state: TrainState) -> dict[str, Any]:
    """What is no parameter; a key is saved as its numbers."""
    key = state.key
    if isinstance(key, jax.ShapeDtypeStruct):
        data = jax.eval_shape(jax.random.key_data, key)
        key = jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=key.sharding)
    else:
        key = jax.random.key_data(key)
    return {"step": state.step, "opt_state": state.opt_state, "key": key}


def restore_params(checkpoint: Path, like: dict[str, Any]) -> dict[str, Any]:
    """`trainable` and `frozen` of a checkpoint, laid out as the shapes of `like` say."""
    with ocp.StandardCheckpointer() as reader:
        return reader.restore((checkpoint / "params").resolve(), like)


def read_run(checkpoint: Path) -> dict[str, Any]:
    """The Run that wrote a checkpoint, as it was serialized."""
    return json.loads((checkpoint / "run" / "metadata").read_text())


def checkpoint_path(phase_folder: Path, step: int | None = None) -> Path:
    """The folder of a step.

    Raises:
        FileNotFoundError: there is no such checkpoint.
    """
    steps = sorted(int(p.name) for p in (phase_folder / "checkpoints").glob("*") if p.name.isdigit())
    if not steps:
        raise FileNotFoundError(f"{phase_folder} holds no checkpoint; name the folder of a trained phase, such as runs/tiny/pretrain")
    if step is not None and step not in steps:
        raise FileNotFoundError(f"{phase_folder} holds no checkpoint of step {step}; it has {', '.join(map(str, steps))}")
    return phase_folder / "checkpoints" / str(steps[-1] if step is None else step)


CAUSES = {  # in the text of an error, from Orbax or the system -> what we say
    "No space left": "no space left on the device",
    "RESOURCE_EXHAUSTED": "no space left on the device",
    "File too large": "it is larger than a file may be there",
    "quota": "the disk quota is used up",
    "ermission": "permission denied",
    "Read-only": "read-only file system",
    "Not a directory": "a file has that name",
    "File exists": "a file has that name",
}


@contextmanager
def _said(folder: Path) -> Iterator[None]:
    """Errors of a full or read-only disk, in one sentence."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        cause = next((said for part, said in CAUSES.items() if part in str(error)), None)
        if cause is None:
            raise
        remedy = "free space or choose another run folder, then run the same command"
        raise OutputError(f"cannot save a checkpoint in {folder}: {cause}; {remedy}") from error
