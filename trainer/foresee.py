"""What can be known of a Run before the first phase of its job begins: a sentence for each thing that would
end it later, perhaps after hours of preparing data.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import AbstractMesh, AxisType

from data_pipeline.component import parts_of
from data_pipeline.loader import MakesShards, ShardData
from model.sharding import AXES
from trainer.batches.layout import Layout
from trainer.checkpoints.load import parent_folder
from trainer.checkpoints.stored import Damaged, checkpoint_path, read_run, steps_in
from trainer.identity import check_identity
from trainer.models import models_of
from trainer.phase import param_shapes
from trainer.run import Run


class Place(NamedTuple):
    """Where a Run will be carried out.

    Attributes:
        folder: Its own in the run folder, named as the phase is.
        before: The phases of the job that come before it, by name.
        n_devices: Of the whole run; None = not known yet.
        allow_change: Fields that may differ from those of its checkpoints.
        anew: Whether what the folder holds is set aside first.
    """

    folder: Path
    before: Mapping[str, Any]
    n_devices: int | None
    allow_change: tuple[str, ...] = ()
    anew: bool = False


def foreseen(run: Run, place: Place) -> list[str]:
    """A sentence for each rule that the phases before it, files, devices or its own checkpoints break."""
    lines = [
        *_parents(run, place),
        *_files(run, place),
        *_sources(run, place),
        *_devices(run, place.n_devices),
    ]
    # The sentence on checkpoints begins with the folder, all others with a field.
    return [*(f"{place.folder.name}.{line}" for line in lines), *_identity(run, place)]


def _parents(run: Run, place: Place) -> Iterator[str]:
    """Everything that gives parameters is a trained phase before this one, or the folder of any."""
    named = {f"roles.{name}.start_from": role.start_from for name, role in run.roles.items()}
    if run.start_from is not None:
        named = {"start_from": run.start_from, **named}
    trained = [name for name, phase in place.before.items() if isinstance(phase, Run)]
    for field, value in named.items():
        # A user's own phase may leave checkpoints too, so only shards are known to be none.
        if value in place.before and not isinstance(place.before[value], MakesShards):
            continue
        if not steps_in(parent_folder(value, place.folder.parent) / "checkpoints"):
            known = f"phase before this one ({', '.join(trained) or 'there is none'})"
            remedy = "correct the name, or put that phase first"
            yield f"{field}={value} is no trained {known} and no folder of one; {remedy}"


def _files(run: Run, place: Place) -> Iterator[str]:
    """The tokenizer and the shards are made by a phase before this one, or are there already."""
    paths = {"tokenizer": run.tokenizer}
    paths |= {f"{path}.folder": data.folder for path, data in _shard_data(run)}
    for field, path in paths.items():
        made = Path(path).parts[:1] and Path(path).parts[0] in place.before
        if not made and not (place.folder.parent / path).exists():
            known = ", ".join(place.before) or "there is none"
            rule = f"is in no phase before this one ({known}) and not in {place.folder.parent}"
            yield f"{field}={path} {rule}; correct the path"


def _sources(run: Run, place: Place) -> Iterator[str]:
    """Every source that data draws from is one that the data phase makes."""
    for path, data in _shard_data(run):
        name, _, side = data.folder.partition("/")
        phase = place.before.get(name)
        if not isinstance(phase, MakesShards):
            continue
        made = phase.shard_names()
        if side.rstrip("/") not in made:
            choices = " or ".join(f"{name}/{known}" for known in made)
            yield f"{path}.folder={data.folder} is none that {name} makes; write {choices}"
            continue
        names = made[side.rstrip("/")]
        for source in data.source_names():
            if source not in names:
                remedy = f"choose of {', '.join(names)}"
                yield f"{path}.weights names {source!r}, no source of phase {name}; {remedy}"


def _shard_data(run: Run) -> Iterator[tuple[str, Any]]:
    """(dotted path, component) of all data in shards: of training and of evaluations."""
    for path, part in parts_of(run):
        # Not all data is in folders: rollouts are made while training.
        if isinstance(part, ShardData) and "folder" in type(part).model_fields:
            yield path, part


def _devices(run: Run, n_devices: int | None) -> list[str]:
    """The mesh fits the devices, and every size of batches and parameters divides over it."""
    if n_devices is None:
        return []
    try:
        sizes = run.mesh.sizes_on(n_devices)
    except ValueError as error:
        return [str(error)]
    # One device divides everything, and tracing a model takes a moment.
    if n_devices == 1:
        return []
    explicit = (AxisType.Explicit,) * len(AXES)
    # Abstract: the devices of a cluster need not be here to count them.
    mesh = AbstractMesh(tuple(sizes[axis] for axis in AXES), AXES, axis_types=explicit)
    problems = list(_layouts(run, mesh))
    for role, model in models_of(run).items():
        where = "architecture" if role == "policy" else f"roles.{role}.architecture"
        try:
            with jax.sharding.use_abstract_mesh(mesh):
                param_shapes(model, mesh)
        except ValueError as error:
            problems.append(f"{where}: {error}")
    return problems


def _layouts(run: Run, mesh: AbstractMesh) -> Iterator[str]:
    """Batches of every size that is trained on or evaluated divide over the mesh."""
    sizes = run.data.sizes()
    wanted = [("", run.data, sizes, run.micro_batches)]
    wanted += [("batch_ramp: ", run.data, {**sizes, "B": rows}, 1) for rows, _ in run.batch_ramp]
    evaluated = [(path, data) for path, data in _shard_data(run) if path != "data"]
    wanted += [(f"{path}: ", data, data.sizes(), 1) for path, data in evaluated]
    for where, data, of_letters, micro_batches in wanted:
        try:
            Layout(data.batch_type, of_letters, mesh, micro_batches)
        except ValueError as error:
            yield f"{where}{error}"


def _identity(run: Run, place: Place) -> list[str]:
    """The checkpoints that the phase would resume from were saved by the same run."""
    if place.anew or not steps_in(place.folder / "checkpoints"):
        return []
    try:
        saved = read_run(checkpoint_path(place.folder))
    except Damaged:
        # Set aside, and an older one taken, when the phase begins.
        return []
    now = run.model_dump(mode="json")
    try:
        check_identity(saved, now, allow_change=place.allow_change, folder=place.folder)
    except ValueError as error:
        return [str(error)]
    return []
