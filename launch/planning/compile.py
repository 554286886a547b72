"""The real training step of a Run, compiled for chips that are not here."""

import functools
import re
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.errors import JaxRuntimeError
from jax.sharding import NamedSharding, PartitionSpec

from model.api import leaf_name
from model.sharding import check_sizes, letters_of, n_parts, named, undivided
from model.size import flops_per_token_of
from trainer.offload import placed_at_rest
from trainer.state import new_state
from trainer.step import make_step

GIB = 2**30


class Memory(NamedTuple):
    """Bytes of one chip's HBM; `peak` is what must be there at one time; `host` is what lies in the host's
    memory.
    """

    arguments: int
    temporaries: int
    peak: int
    host: int


class Compiled(NamedTuple):
    """A step as the compiler left it."""

    text: str
    memory: Memory
    seconds: float


class DoesNotFit(Exception):
    """The compiler found that a step wants more HBM than a chip has; bytes it named."""

    def __init__(self, needed: int, available: int):
        super().__init__(
            f"the step wants {needed / GIB:.2f} GiB of temporaries where {available / GIB:.2f} GiB of HBM are"
        )
        self.needed, self.available = needed, available


class Step(NamedTuple):
    """A Run's step before compiling: the function, the shapes of its arguments laid out on the mesh, and
    what it is worth.
    """

    function: Any
    arguments: tuple[Any, Any]
    mesh: jax.sharding.Mesh
    tokens: int
    model_flops_per_token: float


def step_of(run: Any, mesh: jax.sharding.Mesh) -> Step:
    """The step of `run` on `mesh`, whose devices need not be here.

    Raises:
        ValueError: a size does not divide over the mesh.
    """
    model, tx = run.architecture.build(run.precision, run.execution), run.optimizer.chain(run.steps)
    key = jax.eval_shape(lambda: jax.random.key(0))
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        _check(run, model, mesh)
        state = jax.eval_shape(functools.partial(new_state, model, run.adaptation, tx, guard=run.guard), key)
        flops = flops_per_token_of(run.architecture, state.trainable, length=run.data.seq_len)
        watch = functools.partial(run.watch.arrays, rounds=run.execution.pipeline.rounds)
        settings = {
            "micro_batches": run.micro_batches,
            "offload": run.execution.offload,
            "guard": run.guard,
            "watch": watch,
        }
        function = make_step(model, run.objective, run.adaptation, tx, **settings)
    bound = placed_at_rest(_bound(state, mesh), run.execution.offload)
    return Step(
        function, (bound, batch_shapes(run, mesh)), mesh, run.data.batch_size * run.data.seq_len, flops
    )


def _check(run: Any, model: Any, mesh: jax.sharding.Mesh) -> None:
    """Refuse sizes that do not divide, by their names."""
    parts = n_parts("B")
    if run.data.batch_size % (parts * run.micro_batches):
        over = f"{parts} devices" + (
            f" in {run.micro_batches} micro-batches" if run.micro_batches > 1 else ""
        )
        multiple = parts * run.micro_batches
        raise ValueError(
            f"data.batch_size={run.data.batch_size} does not divide over {over}; choose a multiple of {multiple}"
        )
    with undivided():
        leaves = jax.tree.leaves_with_path(jax.eval_shape(lambda: model.init(jax.random.key(0))))
    names = {leaf_name(path): leaf.shape for path, leaf in leaves}
    if problems := check_sizes(names, mesh):
        raise ValueError("; ".join(problems))


def batch_shapes(run: Any, mesh: jax.sharding.Mesh) -> Any:
    """The batch of a Run, without any data."""

    def field(name: str, shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
        dtype = jnp.float32 if "weight" in name or "reference" in name else jnp.int32
        return jax.ShapeDtypeStruct(shape, dtype, sharding=named(mesh, letters_of(name), shape))

    return run.objective.batch_type(**{name: field(name, shape) for name, shape in run.data.fields().items()})


def _bound(shapes: Any, mesh: jax.sharding.Mesh) -> Any:
    """Shapes traced under a mesh without devices, with their layouts on its devices."""

    def bind(s: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        layout = s.sharding.spec if s.sharding else PartitionSpec()
        kind = s.sharding.memory_kind if s.sharding else None
        return jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=NamedSharding(mesh, layout, memory_kind=kind))

    return jax.tree.map(bind, shapes)


def compile_step(step: Step) -> Compiled:
    """What the compiler of the mesh's devices makes of a step.

    Raises:
        DoesNotFit: it wants more memory than a chip has.
    """
    start = time.monotonic()
    with jax.sharding.use_abstract_mesh(step.mesh.abstract_mesh):
        lowered = step.function.lower(*step.arguments)
    try:
        compiled = lowered.compile()
    except JaxRuntimeError as error:
        raise _shortage(error) or error from None
    return Compiled(compiled.as_text(), _memory(compiled.memory_analysis()), time.monotonic() - start)


def _shortage(error: JaxRuntimeError) -> DoesNotFit | None:
    sizes = re.findall(
        r"\(?([\d.]+)([KMG])\)?", str(error).split("HLO module")[0].partition("Ran out of memory")[2]
    )
    if "RESOURCE_EXHAUSTED" not in str(error) or len(sizes) < 2:
        return None
    needed, available = (
        int(float(number) * {"K": 2**10, "M": 2**20, "G": GIB}[unit]) for number, unit in sizes[:2]
    )
    return DoesNotFit(needed, available)


def _memory(analysis: Any) -> Memory:
    """Results that are no argument in another place (donated state) want room of their own."""
    beside = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    arguments, temporaries = analysis.argument_size_in_bytes, analysis.temp_size_in_bytes
    host = analysis.host_argument_size_in_bytes + analysis.host_temp_size_in_bytes
    return Memory(
        arguments, temporaries, arguments + temporaries + beside + analysis.generated_code_size_in_bytes, host
    )
