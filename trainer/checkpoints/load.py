"""Load the parameters of a trained phase, for another phase, generation or export."""

import json
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array
from pydantic import TypeAdapter

from data_pipeline.component import one_of
from model.adapt import Adaptation
from model.api import Model, Params, key_of
from model.execution import Precision
from model.sharding import letters_of
from model.stages import in_memory_order
from trainer.checkpoints.finished import check_tokenizer, proved_checkpoint
from trainer.checkpoints.stored import (
    arrays_of,
    check_frozen,
    leaf_names,
    read_arrays,
    read_run,
    restore_params,
    state_of,
)
from trainer.fingerprints import fingerprints
from trainer.guard import Guard
from trainer.heads import TrainedHeads, with_heads
from trainer.optimizer import Optimizer
from trainer.optimizers.common.chain import averaged
from trainer.optimizers.common.mup import scaled_at_birth
from trainer.state import new_state


class Loaded(NamedTuple):
    """A trained model; `tokenizer` is the path of the tokenizer that it was trained with."""

    architecture: Any
    params: Params
    tokenizer: Path
    step: int


def load_params(phase_folder: Path, step: int | None = None, *, rounds: int = 1) -> Loaded:
    """The parameters in a phase's last checkpoint, or in that of `step`, at rest on the current mesh.

    If the phase's optimizer averaged them, these are the averages, as in the phase's evaluations. `rounds` is
    how often a microbatch passes the pipeline's stages in this run.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: the phase is finished, and this is not the checkpoint that it left.
    """
    path = proved_checkpoint(phase_folder, step)
    saved = read_run(path)
    tokenizer = phase_folder.parent / saved["tokenizer"]
    # Before the arrays are read, which takes minutes for a large model.
    check_tokenizer(tokenizer)
    architecture = TypeAdapter(one_of("model.architectures")).validate_python(saved["architecture"])
    adaptation = TypeAdapter(one_of("model.adapt")).validate_python(saved["adaptation"])
    precision = Precision.model_validate(saved["precision"])
    own_model = architecture.build(precision)
    heads = heads_in(path, own_model)
    model = with_heads(own_model, heads, width=architecture.width, dtype=precision.params)
    with_trained_heads = TrainedHeads(adaptation, heads) if heads else adaptation
    # an imported phase has no optimizer
    is_averaged = bool(saved.get("optimizer", {}).get("ema_decay"))
    read = _read_averages if is_averaged else _read_last
    trainable = read(path, model, with_trained_heads, saved)
    frozen = _frozen(path, own_model, adaptation, saved)
    # one array for each weight: the caller need not know how this phase was adapted
    params = with_trained_heads.dense(with_trained_heads.merge(trainable, frozen))
    # dense() gives float32 for quantized bases, whose codes do not record the original dtype
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    params = jax.tree.map(lambda x, shape: x.astype(shape.dtype), params, shapes)
    params = in_memory_order(params, rounds=rounds)
    return Loaded(architecture, params, tokenizer, int(path.name))


def heads_in(checkpoint: Path, model: Model) -> tuple[str, ...]:
    """Heads that the phase's objective added to the model: top-level vectors that the model itself lacks."""
    own = jax.eval_shape(model.init, jax.random.key(0)).keys()
    prefix = "params.trainable."
    names = [
        name.removeprefix(prefix) for name in leaf_names(checkpoint) if name.startswith(prefix)
    ]
    top_names = {name.split(".")[0] for name in names}
    return tuple(sorted(name for name in top_names - own if letters_of(name) == "D"))


def _read_last(path: Path, model: Model, adaptation: Adaptation, saved: dict[str, Any]) -> Params:
    """Trainable parameters after the last step."""
    split = partial(_split, model, adaptation)
    trainable, _ = placed(jax.eval_shape(split, jax.random.key(0)))
    # Only the `params` item is read: Adam's state would be twice as large.
    return restore_params(path, {"trainable": trainable, "frozen": {}})["trainable"]


def _read_averages(
    path: Path, model: Model, adaptation: Adaptation, saved: dict[str, Any]
) -> Params:
    """Averages of the trainable parameters, from the optimizer's state, all of which has to be read."""
    # validated as JSON: strict pydantic models accept a list for a tuple only there
    optimizer = Optimizer.model_validate_json(json.dumps(saved["optimizer"]))
    tx = optimizer.chain(saved["steps"])
    guard = Guard.model_validate(saved["guard"])
    make = partial(new_state, model, adaptation, tx, guard=guard)
    # traced for shapes alone, so any key will do
    shapes = placed(jax.eval_shape(make, jax.random.key(0)))
    state = state_of(read_arrays(path, arrays_of(shapes)), {})
    return averaged(state.opt_state.inner, state.trainable)


def _frozen(path: Path, model: Model, adaptation: Adaptation, saved: dict[str, Any]) -> Params:
    """Compute the frozen parameters again from what the phase started from, and compare their fingerprints.

    Raises:
        ValueError: they differ from those that the checkpoint was trained on.
    """
    _, shapes = jax.eval_shape(partial(_split, model, adaptation), jax.random.key(0))
    if not jax.tree.leaves(shapes):
        return {}
    key = jax.random.key(saved["seed"])
    first = None
    base_width = saved["optimizer"].get("mup_base_width")
    if saved["start_from"] is not None:
        job_folder = path.parents[2]  # job/phase/checkpoints/step
        parent = load_params(parent_folder(saved["start_from"], job_folder)).params
        # Without heads: those of the parent were trained on or dropped, and a phase never freezes any.
        own = jax.eval_shape(model.init, key).keys()
        first = {name: parent[name] for name in own}
    elif base_width is not None:

        def scaled(key: Array) -> Params:
            return scaled_at_birth(model.init(key_of(key, "init")), base_width)

        first = jax.jit(scaled)(key)
    frozen = frozen_params(model, adaptation, key, first)
    check_frozen(path, fingerprints(frozen))
    return frozen


def _split(model: Model, adaptation: Adaptation, key: Array) -> tuple[Params, Params]:
    return adaptation.split(model.init(key), key)


def frozen_params(model: Model, adaptation: Adaptation, key: Array, first: Params | None) -> Params:
    """Compute again what `new_state` froze of the `first` parameters; None = those that the model draws."""

    def make(key: Array, first: Params | None) -> Params:
        params = model.init(key_of(key, "init")) if first is None else first
        _, frozen = adaptation.split(params, key_of(key, "adapt"))
        return frozen

    return jax.jit(make)(key, first)


def parent_folder(start_from: str, job_folder: Path) -> Path:
    """Where `start_from` is: a phase of the same job, or else any phase's folder."""
    # The job's own phase takes precedence over a folder of that name in the working directory.
    in_job = job_folder / start_from
    return in_job if in_job.exists() else Path(start_from)


def placed(shapes: Any, mesh: jax.sharding.Mesh | None = None) -> Any:
    """Shapes traced under a mesh, with their layouts bound to its devices; by default the current mesh's."""
    mesh = mesh or jax.sharding.get_mesh()

    def place(s: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        # arguments of the traced function, such as the key, have no layout yet
        layout = s.sharding.spec if s.sharding else PartitionSpec()
        memory = s.sharding.memory_kind if s.sharding else None
        sharding = NamedSharding(mesh, layout, memory_kind=memory)
        return jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding)

    return jax.tree.map(place, shapes)
