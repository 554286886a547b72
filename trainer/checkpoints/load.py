"""Parameters of a trained phase, for whoever goes on from them: another phase, generation, export."""

import json
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import NamedSharding, PartitionSpec
from pydantic import TypeAdapter

from data_pipeline.component import one_of
from model.adapt import Adaptation
from model.api import Model, Params
from model.execution import Precision
from model.sharding import letters_of
from model.stages import in_memory_order
from trainer.checkpoints.stored import (
    arrays_of,
    checkpoint_path,
    leaf_names,
    read_arrays,
    read_run,
    restore_params,
    state_of,
)
from trainer.guard import Guard
from trainer.heads import TrainedHeads, with_heads
from trainer.optimizer import Optimizer
from trainer.optimizers.common.chain import averaged
from trainer.state import new_state


class Loaded(NamedTuple):
    """`tokenizer` is the path of the tokenizer that the phase was trained with."""

    architecture: Any
    params: Params
    tokenizer: Path
    step: int


def load_params(phase_folder: Path, step: int | None = None, *, rounds: int = 1) -> Loaded:
    """The parameters of a phase's newest checkpoint, or of the one of `step`, at rest on the current mesh;
    `rounds` are its pipeline's.

    Where the phase's optimizer averaged them, the averages, which evaluations have read too.

    Raises:
        FileNotFoundError: there is no such checkpoint.
    """
    path = checkpoint_path(phase_folder, step)
    saved = read_run(path)
    architecture = TypeAdapter(one_of("model.architectures")).validate_python(saved["architecture"])
    adaptation = TypeAdapter(one_of("model.adapt")).validate_python(saved["adaptation"])
    precision = Precision.model_validate(saved["precision"])
    model = architecture.build(precision)
    heads = heads_in(path, model)
    model = with_heads(model, heads, width=architecture.width, dtype=precision.params)
    adaptation = TrainedHeads(adaptation, heads) if heads else adaptation
    found = (_averaged if saved.get("optimizer", {}).get("ema_decay") else _last)(
        path, model, adaptation, saved
    )
    params = in_memory_order(adaptation.merge(*found), rounds=rounds)
    return Loaded(architecture, params, phase_folder.parent / saved["tokenizer"], int(path.name))


def heads_in(checkpoint: Path, model: Model) -> tuple[str, ...]:
    """The parameters that an objective had added to the model: those of the top that it does not know."""
    own = jax.eval_shape(model.init, jax.random.key(0)).keys()
    top = {name.split(".")[2] for name in leaf_names(checkpoint) if name.startswith("params.trainable.")}
    return tuple(sorted(name for name in top if name not in own and letters_of(name) == "D"))


def _last(path: Path, model: Model, adaptation: Adaptation, saved: dict[str, Any]) -> tuple[Params, Params]:
    """Trainable and frozen parameters after the last step."""
    trainable, frozen = placed(
        jax.eval_shape(lambda key: adaptation.split(model.init(key), key), jax.random.key(0))
    )
    found = restore_params(path, {"trainable": trainable, "frozen": frozen})
    return found["trainable"], found["frozen"]


def _averaged(
    path: Path, model: Model, adaptation: Adaptation, saved: dict[str, Any]
) -> tuple[Params, Params]:
    """The averages, which lie in the optimizer's state: all of it is read."""
    optimizer = Optimizer.model_validate_json(json.dumps(saved["optimizer"]))
    tx, guard = optimizer.chain(saved["steps"]), Guard.model_validate(saved["guard"])
    shapes = placed(jax.eval_shape(partial(new_state, model, adaptation, tx, guard=guard), jax.random.key(0)))
    state = state_of(read_arrays(path, arrays_of(shapes)))
    return averaged(state.opt_state.inner, state.trainable), state.frozen


def placed(shapes: Any) -> Any:
    """Shapes traced under a mesh, with their layouts bound to its devices."""
    mesh = jax.sharding.get_mesh()

    def place(s: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        layout = (
            s.sharding.spec if s.sharding else PartitionSpec()
        )  # what came in from outside, such as the key, has no layout yet
        return jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=NamedSharding(mesh, layout))

    return jax.tree.map(place, shapes)
