"""States that tests of checkpoints save, and what they compare."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from model.sharding import letters_of, named
from tests.examples import MESHES, SIZES, at_rest_on, under
from trainer.checkpoints.checkpointer import Checkpointer, Checkpoints
from trainer.state import TrainState

POSITION = {"rows": 24, "fingerprint": "ab"}
RUN = {
    "architecture": {"type": "Llama", **SIZES.model_dump()},
    "adaptation": {"type": "Full"},
    "optimizer": {"rule": {"type": "AdamW"}},
    "precision": {"params": "float32", "compute": "float32"},
    "tokenizer": "data/tokenizer.model",
    "seed": 3,
}
TX = optax.adamw(1e-3)
rng = np.random.default_rng(0)
SMALL = {
    "w_DF": rng.normal(size=(16, 6)).astype(np.float32),
    "blocks": {
        "scale_ND": rng.normal(size=(3, 16)).astype(np.float32),
        "half_DF": rng.normal(size=(16, 4)).astype(jnp.bfloat16),
    },
}


def state_on(mesh: jax.sharding.Mesh, step: int, params: dict = SMALL) -> TrainState:
    """A state whose every leaf is random and another one at every step; parameters are `params` plus the
    step.
    """

    def filled(path: Any, x: Any) -> jax.Array:
        letters = letters_of(getattr(path[-1], "key", ""))
        value = (
            np.random.default_rng(step).normal(size=x.shape).astype(x.dtype)
            if x.ndim
            else np.asarray(step, x.dtype)
        )
        return jax.device_put(value, named(mesh, letters, at_rest=True))

    with jax.set_mesh(mesh):
        trainable = jax.tree.map(lambda x: x + jnp.asarray(step, x.dtype), at_rest_on(mesh, params))
        opt_state = jax.tree.map_with_path(filled, jax.eval_shape(TX.init, trainable))
        number = jax.device_put(np.int32(step), named(mesh, ""))
        return TrainState(
            number, trainable, {}, opt_state, jax.random.fold_in(jax.random.key(7), step)
        )


def like(mesh: jax.sharding.Mesh) -> TrainState:
    """The shapes of a state, laid out at rest."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state_on(mesh, 0)
    )


def saved(
    folder: Path,
    steps: tuple[int, ...] = (3,),
    *,
    mesh: jax.sharding.Mesh | None = None,
    event: Callable[..., None] = lambda *_, **__: None,
    numbers: Callable[[int], dict[str, float]] = lambda step: {},
    **settings: Any,
) -> Checkpointer:
    """A checkpointer that has saved `steps`, each as it would be in a loop."""
    mesh = mesh or under(MESHES[0])
    checkpointer = Checkpointer(folder, Checkpoints(**{"every_steps": 2, **settings}), event=event)
    with jax.set_mesh(mesh):
        for step in steps:
            checkpointer.save(
                state_on(mesh, step), {**POSITION, "rows": 8 * step}, RUN, numbers=numbers(step)
            )
        checkpointer.wait()
    return checkpointer


def bits(state: TrainState) -> dict[str, bytes]:
    """Type and bytes of every leaf, by its path."""

    def of(x: Any) -> bytes:
        x = np.asarray(
            jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        )
        return str(x.dtype).encode() + x.tobytes()

    return {jax.tree_util.keystr(path): of(x) for path, x in jax.tree.leaves_with_path(state)}


def assert_same_bits(found: TrainState, expected: TrainState) -> None:
    """The same leaves with the same types and the same bits."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    ours, theirs = bits(found), bits(expected)
    assert [path for path in theirs if ours[path] != theirs[path]] == []


class Events:
    """What a checkpointer had to say."""

    def __init__(self):
        self.all: list[tuple[str, int, dict[str, Any]]] = []

    def __call__(self, name: str, step: int, **what: Any) -> None:
        self.all.append((name, step, what))

    def of(self, name: str) -> list[tuple[int, dict[str, Any]]]:
        """Those of a name."""
        return [(step, what) for each, step, what in self.all if each == name]
