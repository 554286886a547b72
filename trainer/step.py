"""One optimizer step: the same for every phase."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key

from model.adapt import Adaptation
from model.api import Model, Params
from model.sharding import letters_of, reshape
from trainer.compiler import compiler_options
from trainer.guard import STANDARD, Guard, Guarded, counts, kept_if
from trainer.objective import Loss, Objective, PerTarget
from trainer.offload import at_rest, to_device
from trainer.state import TrainState

# (state, batch, others) -> (state, metrics)
TrainStep = Callable[..., tuple[TrainState, dict[str, Any]]]
Others = Mapping[str, Params] | None  # role -> parameters, of all roles but the policy
# (per_target, rows) -> further metrics
SumFurther = Callable[[PerTarget | None, Any], dict[str, Any]]
# (step, params=, gradient=, updates=) -> norms and histograms of them, as arrays
LookAt = Callable[..., dict[str, Array]]
# (state, rows, denominators, key, others) -> (loss, gradient)
Gradient = Callable[..., tuple[Loss, Params]]


def make_step(
    models: Mapping[str, Model],
    objective: Objective,
    adaptation: Adaptation,
    tx: optax.GradientTransformation,
    *,
    micro_batches: int,
    offload: Collection[str] = (),
    guard: Guard = STANDARD,
    breakdown: SumFurther = lambda per_target, rows: {},
    watch: LookAt = lambda step, **trees: {},
) -> TrainStep:
    """The compiled step: denominators -> merge -> loss and gradient by micro-batch, added up -> update ->
    after_step -> guard.

    `models` are those of the objective's roles; `others` in a call are the parameters of all roles but the
    policy, which stay as they are. `offload` names what rests in host memory between steps. `breakdown` sums
    the loss of targets in further ways, `watch` looks at parameters, gradient and updates.
    """
    gradient_of = make_gradient(models, objective, adaptation, breakdown)

    def step(
        state: TrainState, batch: Any, others: Others = None
    ) -> tuple[TrainState, dict[str, Any]]:
        # Over the whole global batch, before it is split: what micro-batches give is then simply added.
        denominators = objective.denominators(batch)
        key = jax.random.fold_in(state.key, state.step)

        def micro_batch(numbered: tuple[Array, Any]) -> tuple[Loss, Params]:
            i, rows = numbered
            return gradient_of(state, rows, denominators, jax.random.fold_in(key, i), others)

        loss, gradient = add_up(
            micro_batch, (jnp.arange(micro_batches), split_rows(batch, micro_batches))
        )
        norm = optax.tree.norm(gradient)
        healthy, history = guard.judge(state.opt_state.history, loss.total, norm)
        # Fetched from the host only now: the gradient's memory is at its peak before.
        params, opt_state = to_device((state.trainable, state.opt_state.inner), after=gradient)
        updates, new_opt_state = tx.update(gradient, opt_state, params)
        new_params = models["policy"].after_step(optax.apply_updates(params, updates), loss.aux)
        # A bad step changes nothing but the counts; no host is asked, so the devices need not wait.
        trainable, inner = kept_if(healthy, (new_params, new_opt_state), (params, opt_state))
        metrics = {**loss.metrics, **counts(history)}
        metrics |= {"loss/train": (loss.total, 1.0), "optimizer/grad_norm": (norm, 1.0)}
        if seen := watch(state.step, params=params, gradient=gradient, updates=updates):
            metrics["watch"] = seen
        state = TrainState(
            state.step + 1, trainable, state.frozen, Guarded(history, inner), state.key
        )
        return at_rest(state, offload), metrics

    # Argument 0, the state, is donated: XLA writes the new one over it, so that parameters and
    # moments never exist twice.
    return jax.jit(step, donate_argnums=0, compiler_options=compiler_options())


def make_gradient(
    models: Mapping[str, Model],
    objective: Objective,
    adaptation: Adaptation,
    breakdown: SumFurther = lambda per_target, rows: {},
) -> Gradient:
    """(state, rows, denominators, key, others) -> loss and gradient of some rows of a batch; to be traced."""

    def gradient_of(
        state: TrainState, rows: Any, denominators: Any, key: Key[Array, ""], others: Others
    ) -> tuple[Loss, Params]:
        fixed = {role: (models[role], params) for role, params in (others or {}).items()}

        def loss_of(trainable: Params) -> tuple[Array, Loss]:
            policy = models["policy"], adaptation.merge(trainable, state.frozen)
            loss = objective.loss({"policy": policy, **fixed}, rows, denominators, key)
            return loss.total, loss

        # By the trainable parameters alone: frozen ones are closed over and get no gradient.
        (_, loss), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.trainable)
        metrics = loss.metrics | breakdown(loss.per_target, rows)
        loss = loss._replace(metrics=metrics, per_target=None)  # only sums leave a micro-batch
        return loss, to_device(gradient, after=loss.total)

    return gradient_of


def add_up(fn: Callable[[Any], Any], parts: Any) -> Any:
    """The sum of fn over the leading axis of `parts`, one after the other: the activations of a single
    micro-batch exist at a time.
    """
    first = jax.tree.map(lambda x: x[0], parts)
    # A scan's carry keeps one shape, dtype and layout, which its start must have already.
    zero = zeros_of(jax.eval_shape(fn, first))

    def add(total: Any, part: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, fn(part)), None

    total, _ = jax.lax.scan(add, zero, parts)
    return total


def zeros_of(shapes: Any) -> Any:
    """Zeros of these shapes, in their layouts."""

    def zeros(s: jax.ShapeDtypeStruct) -> jax.Array:
        # a constant, such as a weight of 1.0, has none
        layout = s.sharding.spec if s.sharding else None
        return jnp.zeros(s.shape, s.dtype, out_sharding=layout)

    return jax.tree.map(zeros, shapes)


def split_rows(batch: Any, parts: int) -> Any:
    """[B, …] -> [parts, B/parts, …]; part i is rows i::parts of each shard, so that no row moves between
    devices.
    """

    def split(x: Any, letters: str) -> Any:
        B, *rest = x.shape
        # The outer of the two keeps B's layout; "." is a dimension that no mesh axis divides.
        return jnp.moveaxis(reshape(x, (B // parts, parts, *rest), f"B.{letters[1:]}"), 1, 0)

    fields = zip(batch._fields, batch, strict=True)
    return type(batch)(*(split(x, letters_of(name)) for name, x in fields))
