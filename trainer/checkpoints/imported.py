"""A phase whose parameters come from elsewhere: its only checkpoint."""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from model.api import Params
from trainer.checkpoints.manifest import write_manifest
from trainer.checkpoints.saving import Writer, said
from trainer.checkpoints.stored import sealed


def save_params(folder: Path, params: Params, run: Mapping[str, Any]) -> None:
    """Write parameters, all of them trainable, as checkpoint 0 of the phase in `folder`, without what only
    a training run has.

    Raises:
        OutputError: the disk does not take them.
    """
    arrays, jsons, place = (
        {"params": {"trainable": params, "frozen": {}}},
        {"run": dict(run)},
        folder / "checkpoints" / "0",
    )
    with said(place.parent), closing(Writer(None)) as writer:
        writer.begin(place, arrays, {**jsons, "fingerprints": sealed(arrays, jsons)}).committed.result()
        write_manifest(place)
