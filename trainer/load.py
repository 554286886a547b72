"""Parameters of a trained phase, for whoever goes on from them: another phase, generation, export."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import NamedSharding, PartitionSpec
from pydantic import TypeAdapter

from data_pipeline.component import one_of
from model.api import Params
from model.execution import Precision
from model.stages import in_memory_order
from trainer.checkpoint import checkpoint_path, read_run, restore_params


class Loaded(NamedTuple):
    """`tokenizer` is the path of the tokenizer that the phase was trained with."""

    architecture: Any
    params: Params
    tokenizer: Path
    step: int


def load_params(phase_folder: Path, step: int | None = None, *, rounds: int = 1) -> Loaded:
    """The parameters of a phase's newest checkpoint, or of the one of `step`, at rest on the current mesh; `rounds` are its pipeline's.

    Raises:
        FileNotFoundError: there is no such checkpoint.
    """
    path = checkpoint_path(phase_folder, step)
    saved = read_run(path)
    architecture = TypeAdapter(one_of("model.architectures")).validate_python(saved["architecture"])
    adaptation = TypeAdapter(one_of("model.adapt")).validate_python(saved["adaptation"])
    model = architecture.build(Precision.model_validate(saved["precision"]))

    def split(key: jax.Array) -> tuple[Params, Params]:
        return adaptation.split(model.init(key), key)

    trainable, frozen = placed(jax.eval_shape(split, jax.random.key(0)))
    found = restore_params(path, {"trainable": trainable, "frozen": frozen})
    params = in_memory_order(adaptation.merge(**found), rounds=rounds)
    return Loaded(architecture, params, phase_folder.parent / saved["tokenizer"], int(path.name))


def placed(shapes: Any) -> Any:
    """Shapes traced under a mesh, with their layouts bound to its devices."""
    mesh = jax.sharding.get_mesh()

    def place(s: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        layout = s.sharding.spec if s.sharding else PartitionSpec()  # what came in from outside, such as the key, has no layout yet
        return jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=NamedSharding(mesh, layout))

    return jax.tree.map(place, shapes)
