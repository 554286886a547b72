"""One optimizer step: the same for every phase."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import optax
from jaxtyping import Array, Key

from model.adapt import Adaptation
from model.api import Model, Params
from trainer.compiler import compiler_options
from trainer.guard import STANDARD, Guard, Guarded, counts, kept_if
from trainer.micro_batches import sum_over_micro_batches
from trainer.objective import Loss, Metrics, Objective
from trainer.offload import at_rest, to_device
from trainer.state import TrainState

Others = Mapping[str, Params] | None  # role -> parameters, of all roles but the policy
LossAndGradient = tuple[Loss, Params]
Stepped = tuple[TrainState, dict[str, Any]]  # and metrics
TrainStep = Callable[..., Stepped]  # of (state, batch, others)


def make_step(
    models: Mapping[str, Model],
    objective: Objective,
    adaptation: Adaptation,
    tx: optax.GradientTransformation,
    *,
    micro_batches: int,
    offload: Collection[str] = (),
    guard: Guard = STANDARD,
    breakdown: Callable[..., Metrics] = lambda *_: {},
    watch: Callable[..., Any] = lambda *_, **__: {},
) -> TrainStep:
    """The compiled step.

    `models` are those of the objective's roles; `others` in a call are the parameters of all but the policy,
    which no step changes. `offload` names what rests in host memory between steps. `breakdown(per_target,
    rows)` gives the loss by source; `watch(step, params=, gradient=, updates=)` norms and histograms.
    """
    gradient_of = make_gradient(models, objective, adaptation)

    def step(state: TrainState, batch: Any, others: Others = None) -> Stepped:
        # Over the whole global batch, before it is split: what micro-batches give is then simply added.
        denominators = objective.denominators(batch)

        def gradient_of_rows(rows: Any, key: Key[Array, ""]) -> LossAndGradient:
            loss, gradient = gradient_of(state, rows, denominators, key, others)
            metrics = loss.metrics | breakdown(loss.per_target, rows)
            # Only sums leave a micro-batch.
            return loss._replace(metrics=metrics, per_target=None), gradient

        key = jax.random.fold_in(state.key, state.step)
        loss, gradient = sum_over_micro_batches(gradient_of_rows, batch, micro_batches, key)
        norm = optax.tree.norm(gradient)
        healthy, history = guard.judge(state.opt_state.history, loss.total, norm)
        # Fetched from the host only now: the gradient's memory is at its peak before.
        params, opt_state = to_device((state.trainable, state.opt_state.inner), after=gradient)
        updates, new_opt_state = tx.update(gradient, opt_state, params)
        # What a model changes by itself, such as the biases that balance its experts.
        new_params = models["policy"].after_step(optax.apply_updates(params, updates), loss.aux)
        # A bad step changes nothing but the counts; no host is asked, so the devices need not wait.
        trainable, inner = kept_if(healthy, (new_params, new_opt_state), (params, opt_state))
        metrics = {**loss.metrics, **counts(history)}
        metrics |= {"loss/train": (loss.total, 1.0), "optimizer/grad_norm": (norm, 1.0)}
        if seen := watch(state.step, params=params, gradient=gradient, updates=updates):
            metrics["watch"] = seen
        opt_state = Guarded(history, inner)
        state = TrainState(state.step + 1, trainable, state.frozen, opt_state, state.key)
        return at_rest(state, offload), metrics

    # Argument 0, the state, is donated: XLA writes the new one over it, so that nothing exists twice.
    return jax.jit(step, donate_argnums=0, compiler_options=compiler_options())


def make_gradient(
    models: Mapping[str, Model], objective: Objective, adaptation: Adaptation
) -> Callable[..., LossAndGradient]:
    """(state, rows, denominators, key, others) -> loss and gradient of some rows of a batch; to be traced."""

    def gradient_of(
        state: TrainState, rows: Any, denominators: Any, key: Key[Array, ""], others: Others
    ) -> LossAndGradient:
        fixed = {role: (models[role], params) for role, params in (others or {}).items()}

        def loss_of(trainable: Params) -> tuple[Array, Loss]:
            policy = models["policy"], adaptation.merge(trainable, state.frozen)
            loss = objective.loss({"policy": policy, **fixed}, rows, denominators, key)
            return loss.total, loss

        # By the trainable parameters alone: frozen ones are closed over and get no gradient.
        (_, loss), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.trainable)
        return loss, to_device(gradient, after=loss.total)

    return gradient_of
