"""`meshwright plan CONFIG --coordinate-check`: do activations and their changes keep their size when the model is made wider?

The check of Yang et al. 2022, appendix D.1: a few real steps at widths x 1, 2, 4, 8, with and without `mup_base_width`. Under maximal
updates nothing grows with the width; under the standard parametrization what is learned does, and with it the learning rate must fall.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.extend.core as jax_core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from data_pipeline.batch import TokenBatch
from model.adapt import Full
from model.api import Model, ModelInputs, Params, key_of
from model.execution import Precision
from model.sharding import einsum, make_mesh
from trainer.mup import scaled_at_birth
from trainer.schedules import Constant
from trainer.state import new_state
from trainer.step import make_step

FACTORS = (1, 2, 4, 8)
STEPS, ROWS, LENGTH, CYCLE = 3, 8, 16, 8
LAYERS = {"layers": 2, "dense_layers": 1}
GROWING = ("width", "heads", "kv_heads", "feed_forward_width", "expert_width", "latent_width", "query_latent_width")
SHOWN = ("embedding", "attention", "feed_forward", "residual", "logits")
FLAT = 0.25  # what remains of the randomness of narrow models; a matrix without its factor gives 0.5 to 1

quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # what runs four times need not run fast


class Sizes(NamedTuple):
    """Means by width and step, from step 0 on; [width, step] each.

    Attributes:
        of: Activation -> the mean of |x|.
        learned: Activation -> the mean of |x - x at step 0|; of the logits what the change of the output matrix makes of the hidden states.
    """

    of: dict[str, np.ndarray]
    learned: dict[str, np.ndarray]


def report(run: Any) -> tuple[list[str], int]:
    """The tables of both parametrizations and a verdict; 3 when something grows in spite of `mup_base_width`.

    Raises:
        ValueError: the phase cannot be checked.
    """
    if run.objective.batch_type is not TokenBatch:
        raise ValueError(f"objective.type={type(run.objective).__name__} does not read rows of tokens; name another phase with --phase")
    if not hasattr(run.optimizer, "mup_base_width"):
        raise ValueError(f"optimizer.type={type(run.optimizer).__name__} has no mup_base_width to check; choose AdamW or Lion")
    models = family(run.architecture)
    widths = [architecture.width for architecture in models]
    lines, verdicts, code = [f"mean |x| at steps 0 to {STEPS} by width, and how it goes with the width", ""], [], 0
    for base_width in (widths[0], None):
        sizes = measured(run, models, base_width)
        growth = {name: exponent(learned[:, -1], widths) for name, learned in sizes.learned.items()}
        growing = [name for name, e in growth.items() if e > FLAT]
        lines += [*_table(f"mup_base_width={base_width}", sizes, widths), ""]
        told = ", ".join(f"{name} {e:+.2f}" for name, e in growth.items())
        verdicts.append(f"mup_base_width={base_width}: {' and '.join(growing) + ' grow' if growing else 'flat'} (learned ~ width^: {told})")
        code = 3 if base_width and growing else code
    return [*lines, *verdicts], code


def family(architecture: Any) -> list[Any]:
    """The narrowest architecture of the same proportions and head width, and those 2, 4 and 8 times as wide; of few layers, untied."""
    sizes = {name: size for name in GROWING if name in type(architecture).model_fields and (size := getattr(architecture, name))}
    few = {name: min(most, getattr(architecture, name)) for name, most in LAYERS.items() if hasattr(architecture, name)}
    part, same = math.gcd(*sizes.values()), {**few, "tied": False}

    def scaled(factor: int) -> Any:
        return type(architecture)(**{**dict(architecture), **same, **{name: size // part * factor for name, size in sizes.items()}})

    return [scaled(factor) for factor in FACTORS]


def measured(run: Any, models: Sequence[Any], base_width: int | None) -> Sizes:
    """Train each architecture for a few steps at the peak learning rate."""
    found = [_history(architecture, run, base_width) for architecture in models]

    def table(name: str, minus: float = 0.0) -> np.ndarray:
        return np.array([[np.abs(seen[name] - minus * history[0][name]).mean() for seen in history] for history in found])

    learned = {name: table(name, minus=1.0) for name in SHOWN} | {"logits": table("learned")}
    return Sizes({name: table(name) for name in SHOWN}, learned)


def _history(architecture: Any, run: Any, base_width: int | None) -> list[dict[str, np.ndarray]]:
    """The activations at each step, and as "learned" what the change of the output matrix adds to the logits."""
    model = architecture.build(Precision(compute="float32"))
    tx = run.optimizer.model_copy(update={"schedule": Constant(warmup_steps=0), "mup_base_width": base_width}).chain(STEPS)

    def born(key: Any) -> Any:
        params = model.init(key_of(key, "init"))
        return new_state(model, Full(), tx, key, params if base_width is None else scaled_at_birth(params, base_width))

    def look(params: Params, first: Params, batch: TokenBatch) -> dict[str, Array]:
        seen, hidden_BLD = activations(model, params, batch)
        change_DV = model.unembed(params) - model.unembed(first)
        return {**seen, "learned": einsum("BLD,DV->BLV", hidden_BLD, change_DV)[..., : model.vocab_size]}

    with jax.set_mesh(make_mesh(jax.devices()[:1])):
        state, see = quick_jit(born)(jax.random.key(run.seed)), quick_jit(look)
        step = make_step(model, run.objective, Full(), tx, micro_batches=1)
        batch = jax.tree.map(jnp.asarray, _rows(architecture.vocab_size, min(LENGTH, architecture.context)))
        first = jax.tree.map(jnp.copy, state.trainable)
        history = [jax.device_get(see(first, first, batch))]
        for _ in range(STEPS):
            state, _ = step(state, batch)
            history.append(jax.device_get(see(state.trainable, first, batch)))
    return history


def _rows(vocab_size: int, length: int) -> TokenBatch:
    """Rows that go round and round through a few tokens; the same at all widths.

    Each token tells the next one: where there is nothing to learn, updates have no direction, and add up to less than they can.
    """
    cycle = np.random.default_rng(0).choice(vocab_size, min(CYCLE, vocab_size), replace=False).astype(np.int32)
    tokens = cycle[(np.arange(ROWS)[:, None] + np.arange(length + 1)) % len(cycle)]
    ones = np.ones((ROWS, length), np.int32)
    positions_BL = np.arange(length, dtype=np.int32) * ones
    return TokenBatch(tokens[:, :-1], tokens[:, 1:], ones.astype(np.float32), positions_BL, ones, 0 * ones)


def activations(model: Model, params: Params, batch: TokenBatch) -> tuple[dict[str, Array], Array]:
    """By the names of `SHOWN`: what goes into the first layer, what the parts of all layers add, what goes into the last; and hidden_BLD.

    They are the values that the model gives names (model/execution.py), found in its trace, which has no loop over layers here.
    """

    def hidden(params: Params) -> Array:
        return model.apply(params, ModelInputs(batch.tokens_BL, batch.positions_BL, batch.segments_BL)).hidden_BLD

    with jax.disable_jit():
        traced = jax.make_jaxpr(hidden)(params)
    named = [(equation.params["name"], *equation.outvars) for equation in traced.jaxpr.eqns if equation.primitive.name == "name"]
    outputs = [*traced.jaxpr.outvars, *(variable for _, variable in named)]
    program = jax_core.jaxpr_as_fun(jax_core.ClosedJaxpr(traced.jaxpr.replace(outvars=outputs), traced.consts))
    hidden_BLD, *values = program(*jax.tree.leaves(params))
    of: dict[str, list[Array]] = {name: [] for name, _ in named}
    for (name, _), value in zip(named, values, strict=True):
        of[name].append(value)
    adds = {name: jnp.stack(of[name]) for name in ("attention", "feed_forward")}
    logits_BLV = einsum("BLD,DV->BLV", hidden_BLD, model.unembed(params))[..., : model.vocab_size]
    return {"embedding": of["residual"][0], **adds, "residual": of["residual"][-1], "logits": logits_BLV}, hidden_BLD


def exponent(sizes: Any, widths: Sequence[int]) -> float:
    """e, where sizes go as width^e (least squares over logarithms)."""
    return float(np.polyfit(np.log(widths), np.log(np.maximum(sizes, 1e-30)), 1)[0])


def _table(title: str, sizes: Sizes, widths: Sequence[int]) -> list[str]:
    lines = [f"{title:<24}step {''.join(f'{width:>10}' for width in widths)}    ~ width^"]
    for name in SHOWN:
        for step, row in enumerate(sizes.of[name].T):
            cells = "".join(f"{size:>10.4f}" for size in row)
            lines.append(f"  {'' if step else name:<22}{step:>4} {cells}{exponent(row, widths):>12.2f}")
    return lines
