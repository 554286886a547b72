"""The real training step of a Run, compiled for chips that this machine does not have."""

import re
import time
from typing import Any, NamedTuple

import jax
from jax.errors import JaxRuntimeError

from trainer.assemble import training_step
from trainer.batches.layout import Layout
from trainer.checkpoints.load import placed
from trainer.models import models_of
from trainer.offload import placed_at_rest
from trainer.phase import param_shapes, state_shapes
from trainer.records.breakdown import made_up_byte_lengths
from trainer.records.costs import run_flops_per_token
from trainer.run import Run

GIB = 2**30


class Memory(NamedTuple):
    """Bytes of one chip's HBM: arguments, temporaries, and the most in use at one time; `host` is in the
    host's memory.
    """

    arguments: int
    temporaries: int
    peak: int
    host: int


class Compiled(NamedTuple):
    """A compiled step: its optimized HLO, its memory, and how long compiling took."""

    text: str
    memory: Memory
    seconds: float


class DoesNotFit(Exception):
    """The compiler reports that a step needs more HBM than a chip has, both in bytes."""

    def __init__(self, needed: int, available: int):
        super().__init__(
            f"the step wants {needed / GIB:.2f} GiB of temporaries where {available / GIB:.2f} GiB of HBM are"
        )
        self.needed, self.available = needed, available


class Step(NamedTuple):
    """A Run's step before compiling: the function, the shapes and layouts of its arguments, and the tokens
    and model FLOPs by which its speed is judged.
    """

    function: Any
    arguments: tuple[Any, ...]  # state, batch, other roles' parameters
    mesh: jax.sharding.Mesh
    tokens: int
    model_flops_per_token: float


def step_of(run: Run, mesh: jax.sharding.Mesh) -> Step:
    """The step that trains `run` on `mesh`, whose devices need not be here.

    Raises:
        ValueError: a size does not divide over the mesh.
    """
    models = models_of(run)
    tx = run.optimizer.chain(run.steps)
    key = jax.eval_shape(lambda: jax.random.key(0))
    # Shapes of a batch over all processes, as the loader would place it.
    batch = Layout(run.objective.batch_type, run.data.sizes(), mesh, run.micro_batches).shapes
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        params = {role: param_shapes(model, mesh) for role, model in models.items()}
        state = state_shapes(run, models["policy"], tx, mesh)
        others = {name: jax.eval_shape(models[name].init, key) for name in run.roles}
        function = training_step(run, models, tx, made_up_byte_lengths(run.architecture.vocab_size))
    # The layouts and memory kinds that the state of a run has between steps.
    at_rest = placed_at_rest(placed(state, mesh), run.execution.offload)
    arguments = at_rest, run.objective.batch_type(**batch), placed(others, mesh)
    tokens = run.data.batch_size * run.data.row_length
    return Step(function, arguments, mesh, tokens, run_flops_per_token(run, params))


def compile_step(step: Step) -> Compiled:
    """Compile a step for the mesh's devices.

    Raises:
        DoesNotFit: the step needs more memory than a chip has.
    """
    start = time.monotonic()
    with jax.sharding.use_abstract_mesh(step.mesh.abstract_mesh):
        lowered = step.function.lower(*step.arguments)
    try:
        compiled = lowered.compile()
    except JaxRuntimeError as error:
        # Any other error is raised as it is.
        raise _shortage(error) or error from None
    return Compiled(
        compiled.as_text(), _memory(compiled.memory_analysis()), time.monotonic() - start
    )


def _shortage(error: JaxRuntimeError) -> DoesNotFit | None:
    # "… Ran out of memory … Used 20.3G of 15.7G hbm. … HLO module …"
    message = str(error).split("HLO module")[0].partition("Ran out of memory")[2]
    sizes = re.findall(r"\(?([\d.]+)([KMG])\)?", message)
    if "RESOURCE_EXHAUSTED" not in str(error) or len(sizes) < 2:
        return None
    # In XLA's messages K, M and G are powers of two.
    units = {"K": 2**10, "M": 2**20, "G": GIB}
    needed, available = (int(float(number) * units[unit]) for number, unit in sizes[:2])
    return DoesNotFit(needed, available)


def _memory(analysis: Any) -> Memory:
    """Memory of one device, from XLA's own analysis of a compiled program."""
    arguments = analysis.argument_size_in_bytes
    temporaries = analysis.temp_size_in_bytes
    # Results that do not reuse the memory of a donated argument, as the new state does.
    results = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    peak = arguments + temporaries + results + analysis.generated_code_size_in_bytes
    host = analysis.host_argument_size_in_bytes + analysis.host_temp_size_in_bytes
    return Memory(arguments, temporaries, peak, host)
