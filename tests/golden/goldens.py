"""What the golden files hold: the layout of every array of a training state, and the collectives of
compiled steps.

`JAX_PLATFORMS=cpu XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m tests.golden.goldens` writes
them anew. A change of them belongs into the commit that changes the code, with its reason.
"""

import json
import math
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from launch.job.load import load
from launch.planning.collectives import kind_of, transfers_of
from launch.planning.hlo import parse
from launch.planning.walk import walk
from model.adapt import Full
from model.architectures.llama import Llama
from model.execution import Execution, Precision, Remat
from model.layers.stacked_names import layer_name
from model.mesh import make_mesh
from model.sharding import AXES, letters_of, n_parts
from tests.examples import batch_on, random_tokens
from trainer.checkpoints.load import placed
from trainer.objectives.next_token import NextToken
from trainer.optimizer import Optimizer
from trainer.optimizers.adamw import AdamW
from trainer.schedules import WarmupCosine
from trainer.state import new_state
from trainer.step import make_step

FOLDER = Path(__file__).parent
DEVICES = {
    "tiny": 8,
    "llama2_7b": 16,
    "llama2_70b": 128,
}  # config -> on how many its first training phase is laid out
MESHES = (
    {"fsdp": 8},
    {"fsdp": 4, "tensor": 2},
    {"data": 2, "fsdp": 2, "tensor": 2},
    {"tensor": 8},
    {"fsdp": 2, "context": 4},
    {"data": 2, "context": 2, "tensor": 2},
    {"stage": 2, "fsdp": 2, "tensor": 2},
)
# every size is another number, so that an array in a compiled program is known by its shape
SIZES = Llama(
    vocab_size=256,
    width=64,
    layers=4,
    heads=8,
    kv_heads=2,
    head_width=6,
    feed_forward_width=40,
    context=32,
)
ROWS = {"B": 8, "L": 16}


def layouts(config: str) -> str:
    """One line an array of the state of a config's first training phase: path, dtype, shape and the mesh
    axes of every dimension.
    """
    run = next(phase for phase in load(config).phases.values() if hasattr(phase, "architecture"))
    sizes = {axis: getattr(run.mesh, axis) for axis in AXES}
    left = DEVICES[config] // math.prod(size for size in sizes.values() if size > 0)
    shape = tuple(left if size == -1 else size for size in sizes.values())
    model, tx = run.architecture.build(run.precision, run.execution), run.optimizer.chain(run.steps)
    with jax.sharding.use_abstract_mesh(
        AbstractMesh(shape, AXES, axis_types=(AxisType.Explicit,) * len(AXES))
    ):
        state = jax.eval_shape(
            partial(new_state, model, run.adaptation, tx), jax.eval_shape(lambda: jax.random.key(0))
        )
    lines = [
        f"{config} on {', '.join(f'{axis}={size}' for axis, size in zip(AXES, shape, strict=True) if size > 1)}"
    ]
    for path, leaf in jax.tree.leaves_with_path(state):
        where = list(leaf.sharding.spec.partitions) if leaf.sharding else []
        lines.append(
            f"{jax.tree_util.keystr(path, simple=True, separator='.')}  {leaf.dtype}{list(leaf.shape)}  {where}"
        )
    return "\n".join(lines) + "\n"


def compiled_text(sizes: dict[str, int]) -> str:
    """The training step of a small Llama, with full remat and in float32, as it is compiled for 8 devices."""
    model = SIZES.build(Precision(compute="float32"), Execution(remat=Remat(preset="full")))
    tx = Optimizer(
        rule=AdamW(),
        peak_lr=1e-2,
        schedule=WarmupCosine(warmup_steps=0, end_frac=0.1),
        weight_decay=0.1,
    ).chain(10)
    mesh = make_mesh(**sizes)
    with jax.set_mesh(mesh):
        state = placed(jax.eval_shape(partial(new_state, model, Full(), tx), jax.random.key(0)))
        step = make_step({"policy": model}, NextToken(), Full(), tx, micro_batches=1)
        return step.lower(state, batch_on(mesh, random_tokens(**ROWS))).compile().as_text()


def collectives(text: str, sizes: dict[str, int]) -> Iterator[str]:
    """One line for each kind of collective along the same axes: how often a step makes it, and the bytes of
    one device.
    """
    mesh = {axis: sizes.get(axis, 1) for axis in AXES}
    yield f"mesh {', '.join(f'{axis}={size}' for axis, size in sizes.items())}"
    for each in transfers_of(walk(parse(text)), mesh):
        yield f"  {each.kind} over {'+'.join(each.axes)}: {each.n_calls:.0f} times, {each.n_bytes:,.0f} bytes"


def gathered_sizes(text: str) -> set[int]:
    """How many numbers the arrays have that the all-gathers of a program give to a device."""
    found = [
        each.instruction for each in walk(parse(text)) if kind_of(each.instruction) == "all-gather"
    ]
    return {shape.n_elements for instruction in found for shape in instruction.shapes}


def sizes_in_use(sizes: dict[str, int]) -> dict[str, int]:
    """What the table calls for: how many numbers of it a device holds in use, of every weight and of the
    activations that are gathered.

    Those are the input of a block's products (over `tensor`), keys and values and what masks are made of
    (over `context`), and what layers know of the rows (over `stage`). The gradient of a key/value weight
    that is repeated over `tensor` is gathered before its sum.
    """
    model = SIZES.build(Precision())
    with jax.set_mesh(make_mesh(**sizes)):
        leaves = jax.tree.leaves_with_path(jax.eval_shape(model.init, jax.random.key(0)))
        arrays = {
            layer_name(path[-1].key) if "_N" in path[-1].key else path[-1].key: leaf.shape
            for path, leaf in leaves
        }
        arrays = {
            name: shape[len(shape) - len(letters_of(name)) :] for name, shape in arrays.items()
        }
        B, L = ROWS["B"], ROWS["L"]
        arrays |= {
            "input_BLD": (B, L, SIZES.width),
            "keys_BTKA": (B, L, max(SIZES.kv_heads, n_parts("K")), SIZES.head_width),
        }
        arrays |= {
            "tokens_BL": (B, L),
            "positions_BT": (B, L),
            "rotations_BLAP": (B, L, SIZES.head_width // 2, 2),
        }
        held = {name: _held(letters_of(name), shape) for name, shape in arrays.items()}
        return held | {
            "repeated key weight": SIZES.width
            * max(SIZES.kv_heads, n_parts("K"))
            * SIZES.head_width
        }


def bad_program() -> None:
    """Compile what the compiler can only do by holding a whole array on every device."""
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    one, other = (
        NamedSharding(mesh, PartitionSpec(*axes))
        for axes in (("a", None, "b"), (None, ("a", "b"), None))
    )

    def moved(x: jax.Array) -> jax.Array:
        return jnp.cos(jax.lax.with_sharding_constraint(jnp.sin(x), other))

    jax.jit(moved, in_shardings=one).lower(
        jax.ShapeDtypeStruct((16, 16, 16), jnp.float32)
    ).compile()


def _held(letters: str, shape: tuple[int, ...]) -> int:
    return math.prod(
        size // n_parts(letter, size) for letter, size in zip(letters, shape, strict=True)
    )


def found() -> dict[str, Any]:
    """`files`: name -> text of all golden files; `gathered`: for each mesh what is gathered, and what the
    table calls for.
    """
    lines, gathered = [], []
    for sizes in MESHES:
        text = compiled_text(sizes)
        lines += collectives(text, sizes)
        gathered.append(
            {
                "mesh": sizes,
                "found": sorted(gathered_sizes(text)),
                "called_for": sizes_in_use(sizes),
            }
        )
    files = {f"layouts_{config}.txt": layouts(config) for config in DEVICES} | {
        "collectives.txt": "\n".join(lines) + "\n"
    }
    return {"files": files, "gathered": gathered}


def main() -> None:
    """Write the files, or with an argument print all that was found as JSON."""
    everything = found()
    if sys.argv[1:]:
        print(json.dumps(everything))
        print("from here on it is the bad program", file=sys.stderr, flush=True)
        bad_program()
        return
    for name, text in everything["files"].items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
