"""Activations of a model over its first training steps, for the coordinate check."""

from typing import Any

import jax
import jax.extend.core as jax_core
import jax.numpy as jnp
import numpy as np

from data_pipeline.batch import TokenBatch
from model.adapt import Full
from model.api import Model, ModelInputs, Params, key_of
from model.execution import Execution, Precision
from model.mesh import make_mesh
from model.sharding import einsum
from trainer.assemble import training_step
from trainer.models import model_of
from trainer.norms import Watch
from trainer.optimizers.common.mup import scaled_at_birth
from trainer.phase import initial_state
from trainer.records.breakdown import made_up_byte_lengths
from trainer.run import Run
from trainer.schedules import Constant

# Small enough for a run of seconds, large enough that means over rows and positions are steady.
STEPS, ROWS, LENGTH, CYCLE = 3, 8, 16, 8
SHOWN = ("embedding", "attention", "feed_forward", "residual", "logits")
QUICK = {"xla_backend_optimization_level": 0}  # what runs a few times need not run fast


def first_steps(architecture: Any, run: Run, base_width: int | None) -> list[dict[str, np.ndarray]]:
    """Train from scratch at the peak learning rate: the activations at each step from 0 on, by the names of
    `SHOWN`, and as "learned" what the change of the output matrix adds to the logits.
    """
    schedule = {"schedule": Constant(warmup_steps=0), "mup_base_width": base_width}
    optimizer = run.optimizer.model_copy(update=schedule)
    plain = {
        "precision": Precision(compute="float32"),
        "execution": Execution(),
        "adaptation": Full(),
    }
    # One micro-batch: several would take longer and give the same values.
    sizes = {"architecture": architecture, "optimizer": optimizer, "micro_batches": 1}
    run = run.model_copy(update={**plain, **sizes, "watch": Watch(norms_every=0)})
    model = model_of(run)
    tx = optimizer.chain(STEPS)

    # Under jit with the scaling inside, as a phase with muP makes its first state.
    def born(key: Any) -> Any:
        params = model.init(key_of(key, "init"))
        scaled = params if base_width is None else scaled_at_birth(params, base_width)
        return initial_state(run, model, tx)(key, scaled)

    def look(params: Params, first: Params, batch: TokenBatch) -> dict[str, jax.Array]:
        seen, hidden_BLD = activations(model, params, batch)
        # Only the change: the random start is large, and would hide the growth of what is learned.
        change_DV = model.unembed(params) - model.unembed(first)
        return {
            **seen,
            # Without the entries that pad the vocabulary so that a mesh divides it.
            "learned": einsum("BLD,DV->BLV", hidden_BLD, change_DV)[..., : model.vocab_size],
        }

    with jax.set_mesh(make_mesh(jax.devices()[:1])):
        state = jax.jit(born, compiler_options=QUICK)(jax.random.key(run.seed))
        see = jax.jit(look, compiler_options=QUICK)
        step = training_step(
            run, {"policy": model}, tx, made_up_byte_lengths(architecture.vocab_size)
        )
        batch = jax.tree.map(
            jnp.asarray, _rows(architecture.vocab_size, min(LENGTH, architecture.context))
        )
        # A copy, because the step donates the state that it is given.
        first = jax.tree.map(jnp.copy, state.trainable)
        history = [jax.device_get(see(first, first, batch))]
        for _ in range(STEPS):
            state, _ = step(state, batch)
            history.append(jax.device_get(see(state.trainable, first, batch)))

    return history


def _rows(vocab_size: int, length: int) -> TokenBatch:
    """Rows that go round and round through a few tokens; the same at all widths.

    A token determines the next one. If there were nothing to learn, updates would have no direction and add
    up to less than they do in training.
    """
    rng = np.random.default_rng(0)
    # Without replacement: a token that occurs twice in the cycle would have two successors.
    cycle = rng.choice(vocab_size, min(CYCLE, vocab_size), replace=False).astype(np.int32)
    # Row r begins at index r of the cycle, and has one token more than inputs, the last target.
    tokens = cycle[(np.arange(ROWS)[:, None] + np.arange(length + 1)) % len(cycle)]
    ones = np.ones((ROWS, length), np.int32)
    positions_BL = np.arange(length, dtype=np.int32) * ones
    return TokenBatch(
        tokens[:, :-1], tokens[:, 1:], ones.astype(np.float32), positions_BL, ones, 0 * ones
    )


def activations(
    model: Model, params: Params, batch: TokenBatch
) -> tuple[dict[str, jax.Array], jax.Array]:
    """By the names of `SHOWN`: the input of the first layer, what attention and feed-forward of all layers
    add, the input of the last layer, the logits; and hidden_BLD.

    These are values that the model gives names (model/execution.py). They are found in its trace, in which
    the loop over layers is unrolled.
    """

    def hidden(params: Params) -> jax.Array:
        inputs = ModelInputs(batch.tokens_BL, batch.positions_BL, batch.segments_BL)
        return model.apply(params, inputs).hidden_BLD

    with jax.disable_jit():  # unrolls scans, so that the trace has the values of each layer
        traced = jax.make_jaxpr(hidden)(params)
    named = [
        (equation.params["name"], *equation.outvars)
        for equation in traced.jaxpr.eqns
        if equation.primitive.name == "name"
    ]
    # The same program with the named values as further results.
    outputs = [*traced.jaxpr.outvars, *(variable for _, variable in named)]
    program = jax_core.jaxpr_as_fun(
        jax_core.ClosedJaxpr(traced.jaxpr.replace(outvars=outputs), traced.consts)
    )
    hidden_BLD, *values = program(*jax.tree.leaves(params))
    by_name: dict[str, list[jax.Array]] = {name: [] for name, _ in named}
    for (name, _), value in zip(named, values, strict=True):
        by_name[name].append(value)
    added = {name: jnp.stack(by_name[name]) for name in ("attention", "feed_forward")}
    logits_BLV = einsum("BLD,DV->BLV", hidden_BLD, model.unembed(params))[..., : model.vocab_size]

    # "residual" is the input of a layer; that of the first layer is the embedding.
    return {
        "embedding": by_name["residual"][0],
        **added,
        "residual": by_name["residual"][-1],
        "logits": logits_BLV,
    }, hidden_BLD
