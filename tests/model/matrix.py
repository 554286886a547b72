"""The matrix of families × meshes: how far loss and gradients on 8 devices are from those of one.

As a program it prints the whole matrix: `python -m tests.model.matrix` (some minutes; a family's name as
argument prints its row alone).
"""

import sys
from functools import cache
from typing import Any, NamedTuple

import jax
import numpy as np

from model.api import Params, leaf_name
from model.architectures.gemma import Gemma2, Gemma3
from model.architectures.gpt2 import GPT2
from model.architectures.llama import Llama
from tests.examples import (
    ONE_DEVICE,
    at_rest_on,
    batch_on,
    built,
    host_params,
    quick_jit,
    random_tokens,
    under,
)
from trainer.objectives.next_token import NextToken

SIZES = {
    "vocab_size": 40,
    "width": 16,
    "layers": 3,
    "heads": 8,
    "kv_heads": 2,
    "head_width": 6,
    "feed_forward_width": 24,
    "context": 32,
}
FAMILIES = {  # windows are shorter than the rows, and the last pattern of layers is cut short
    "Llama": Llama(**SIZES),
    "Mistral": Llama(**SIZES, window=5),
    "Qwen2": Llama(**SIZES, attention_bias=True, tied=True),
    "Qwen3": Llama(**SIZES, head_norm=True),
    "Gemma2": Gemma2(
        **SIZES, window=5, query_pre_attn_scalar=10, attention_soft_cap=2.0, logit_soft_cap=3.0
    ),
    "Gemma3": Gemma3(**SIZES, window=5, query_pre_attn_scalar=10, full_every=2),
    "GPT2": GPT2(vocab_size=40, width=16, layers=3, heads=8, feed_forward_width=24, context=32),
}


class Case(NamedTuple):
    """A mesh, and the length of the rows: 16 divides over context and tensor, 10 over neither 4 nor 8; and
    the number of layers.
    """

    mesh: tuple[tuple[str, int], ...]
    L: int
    N: int

    def __str__(self) -> str:
        return " × ".join(f"{axis} {n}" for axis, n in self.mesh) + f", L {self.L}"

    def on_one_device(self) -> "Case":
        """The same model and batch."""
        return self._replace(mesh=tuple(ONE_DEVICE.items()))


CASES = tuple(
    Case(
        tuple(mesh.items()), L, 4 if "stage" in mesh else 3
    )  # whole patterns for every stage; else one that is cut short
    for mesh, L in (
        ({"fsdp": 8}, 16),
        ({"fsdp": 4, "tensor": 2}, 16),
        ({"data": 2, "fsdp": 2, "tensor": 2}, 10),
        ({"tensor": 8}, 16),  # more parts than key/value heads
        ({"tensor": 8}, 10),
        ({"context": 2, "tensor": 2, "data": 2}, 16),
        ({"context": 2, "tensor": 2, "data": 2}, 10),
        ({"context": 4, "fsdp": 2}, 16),
        ({"stage": 2, "fsdp": 4}, 10),
        ({"stage": 2, "context": 2, "tensor": 2}, 16),
    )
)


class Errors(NamedTuple):
    """Relative errors: of the loss, and of the worst gradient leaf (norm of the difference by norm), with
    its name.
    """

    loss: float
    gradient: float
    leaf: str


@cache
def host_params_of(family: str, N: int) -> Params:
    """`host_params`, whose norm scales are about 1 in Gemma too, which stores them less 1: scales about 2
    make so steep a model that rounding shows.
    """

    def about_one(path: Any, x: np.ndarray) -> np.ndarray:
        return (
            x - np.float32(1)
            if family.startswith("Gemma") and path[-1].key.startswith("scale")
            else x
        )

    return jax.tree.map_with_path(about_one, host_params(with_layers(family, N)))


def with_layers(family: str, N: int) -> Any:
    """A family's sizes with N layers."""
    return FAMILIES[family].model_copy(update={"layers": N})


@cache
def loss_and_gradient(family: str, case: Case) -> tuple[float, dict[str, np.ndarray]]:
    """Those of one packed batch; gradients by dotted name, on the host."""
    sizes, mesh = with_layers(family, case.N), under(dict(case.mesh))

    def loss(params: Any, batch: Any) -> jax.Array:
        objective = NextToken()
        models = {"policy": (built(sizes), params)}
        return objective.loss(models, batch, objective.denominators(batch), jax.random.key(0)).total

    with jax.set_mesh(mesh):
        batch = batch_on(mesh, random_tokens(B=8, L=case.L))
        value, gradient = quick_jit(jax.value_and_grad(loss))(
            at_rest_on(mesh, host_params_of(family, case.N)), batch
        )
    leaves = jax.tree.leaves_with_path(gradient)
    return float(value), {leaf_name(path): np.array(g) for path, g in leaves}


def errors(family: str, case: Case) -> Errors:
    """Of a mesh against one device."""
    loss, gradient = loss_and_gradient(family, case)
    expected_loss, expected = loss_and_gradient(family, case.on_one_device())
    norms = {name: np.linalg.norm(g) for name, g in expected.items()}
    total = sum(norm**2 for norm in norms.values()) ** 0.5
    # a gradient that is 0 but for rounding (GPT-2's key bias: no softmax sees it) is measured by the whole
    sizes = {name: norm if norm > 1e-6 * total else total for name, norm in norms.items()}
    worst = {
        name: float(np.linalg.norm(gradient[name] - expected[name]) / sizes[name])
        for name in expected
    }
    leaf = max(worst, key=worst.__getitem__)
    return Errors(abs(loss - expected_loss) / expected_loss, worst[leaf], leaf)


def table(families: tuple[str, ...]) -> str:
    """Loss error / worst gradient error of every cell, in Markdown."""
    lines = ["| mesh | " + " | ".join(families) + " |", "|---" * (1 + len(families)) + "|"]
    for case in CASES:
        cells = [errors(family, case) for family in families]
        lines.append(
            f"| {case} | "
            + " | ".join(f"{cell.loss:.0e} / {cell.gradient:.0e}" for cell in cells)
            + " |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    print(table(tuple(sys.argv[1:]) or tuple(FAMILIES)))
