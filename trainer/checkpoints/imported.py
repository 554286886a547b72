"""Write imported parameters as checkpoint 0 of a new phase."""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from model.api import Params
from trainer.checkpoints.manifest import write_manifest
from trainer.checkpoints.saving import Writer, system_errors_as_output_error
from trainer.checkpoints.stored import sealed


def save_params(folder: Path, params: Params, run: Mapping[str, Any]) -> None:
    """Write parameters, all of them trainable, as checkpoint 0 of the phase in `folder`.

    It has no optimizer state and no data position, so a phase can start from it but not resume it.

    Raises:
        OutputError: the disk is full or cannot be written.
    """
    arrays = {"params": {"trainable": params, "frozen": {}}}
    jsons = {"run": dict(run)}
    # sealed like a trained checkpoint, so that loading verifies it in the same way
    seal = sealed(arrays, jsons)
    path = folder / "checkpoints" / "0"
    with system_errors_as_output_error(path.parent), closing(Writer(None)) as writer:
        writer.begin(path, arrays, {**jsons, "fingerprints": seal}).committed.result()
        write_manifest(path)
