"""Routers: which experts a token goes to, with which weights, and how their loads are kept even."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from model.api import Params
from model.sharding import shard


class Routes(NamedTuple):
    """The S experts of each of M tokens, best first, and their weights; `shares_ME` is each token's
    distribution over all experts, for the balance loss.
    """

    experts_MS: Int[Array, "M S"]
    weights_MS: Float[Array, "M S"]
    shares_ME: Float[Array, "M E"]


class Balance(NamedTuple):
    """Sums over the real tokens of all devices: the penalty to add to the loss, and each expert's tokens."""

    penalty: Float[Array, ""]
    load_E: Float[Array, "E"]


def as_scored(scores_MS: Float[Array, "M S"]) -> Float[Array, "M S"]:
    """The weights of the chosen experts are their scores."""
    return scores_MS


def renormalised(scores_MS: Float[Array, "M S"]) -> Float[Array, "M S"]:
    """The weights of the chosen experts add up to 1; after a softmax over all, this is the softmax over the
    chosen (Mixtral).
    """
    # 1e-20 as in DeepSeek-V3's code, for sigmoids that are all zero
    total_M1 = jnp.sum(scores_MS, -1, keepdims=True) + 1e-20
    return scores_MS / total_M1


# value of an architecture's `expert_weights` -> its function
WEIGH = {
    "scores": as_scored,
    "renormalised": renormalised,
}


@dataclass(frozen=True, kw_only=True)
class Router:
    """Chooses the `top_k` experts with the highest scores, in float32; among equal scores the first ones.

    `score` is `jax.nn.softmax` or `jax.nn.sigmoid`, `weigh` is `as_scored` or `renormalised`, and the
    weights are multiplied by `scale`. With `n_groups` > 1 only experts of the `top_groups` best groups are
    eligible; a group is worth its two best scores (DeepSeek-AI 2024, DeepSeek-V3 §2.1.2). With a
    `bias_rate` the layer has a bias that is added to the scores where experts are chosen, but not where
    they are weighed; after each step it moves by that much towards an even load (Wang et al. 2024); 0 keeps
    it as it is, None is a layer without one.

    `balance_loss` and `z_loss` are coefficients of `balance`.
    """

    top_k: int
    score: Callable[[Array], Array]
    weigh: Callable[[Array], Array]
    balance_loss: float
    z_loss: float
    n_groups: int = 1
    top_groups: int = 1
    scale: float = 1.0
    bias_rate: float | None = None

    def check(self, E: int) -> None:
        """Check that this router can choose from E experts.

        Raises:
            ValueError: it cannot.
        """
        if not 1 <= self.top_groups <= self.n_groups:
            rule = f"is not between 1 and n_groups={self.n_groups}"
            raise ValueError(f"top_groups={self.top_groups} {rule}; lower it")
        too_small = self.n_groups > 1 and E < 2 * self.n_groups  # a group is worth its two best
        if E % self.n_groups or too_small:
            rule = f"does not cut {E} experts into equal groups of at least 2"
            raise ValueError(f"n_groups={self.n_groups} {rule}; change either")
        eligible = E // self.n_groups * self.top_groups
        if not 1 <= self.top_k <= eligible:
            rule = f"is not between 1 and the {eligible} experts of {self.top_groups} groups"
            raise ValueError(f"top_k={self.top_k} {rule}; change either")

    def route(self, logits_ME: Float[Array, "M E"], bias_E: Float[Array, "E"]) -> Routes:
        """Route each token by its own logits. The choice has no gradient, so the bias gets none."""
        scores_ME = self.score(logits_ME.astype(jnp.float32))
        ranked_ME = jax.lax.stop_gradient(self._eligible(scores_ME + bias_E.astype(jnp.float32)))
        # among equal scores `top_k` takes the lower index, so routes are reproducible
        experts_MS = jax.lax.top_k(ranked_ME, self.top_k)[1]
        # a masked sum instead of indexing, whose gradient would be a scatter
        chosen_MSE = experts_MS[:, :, None] == jnp.arange(logits_ME.shape[1])
        chosen_MS = jnp.sum(jnp.where(chosen_MSE, scores_ME[:, None], 0.0), -1)
        shares_ME = scores_ME / jnp.sum(scores_ME, -1, keepdims=True)  # sigmoids do not add up to 1
        return Routes(experts_MS, self.weigh(chosen_MS) * self.scale, shares_ME)

    def _eligible(self, scores_ME: Array) -> Array:
        """Scores, with minus infinity outside of the best groups."""
        if self.top_groups == self.n_groups:
            return scores_ME
        M, E = scores_ME.shape
        scores_MPE = scores_ME.reshape(M, self.n_groups, E // self.n_groups)
        two_best_MPS = jax.lax.top_k(scores_MPE, 2)[0]
        worth_MP = jnp.sum(two_best_MPS, -1)
        best_MS = jax.lax.top_k(worth_MP, self.top_groups)[1]
        in_best_MP = jnp.any(best_MS[:, :, None] == jnp.arange(self.n_groups), 1)
        # not 0: a score plus a negative bias may be below 0, and would lose to an excluded group
        return jnp.where(in_best_MP[:, :, None], scores_MPE, -jnp.inf).reshape(M, E)

    def balance(
        self,
        logits_ME: Float[Array, "M E"],
        routes: Routes,
        real_M: Bool[Array, "M"],
        axes: tuple[str, ...],
    ) -> Balance:
        """Router losses of the real tokens, times their number n, so that penalties of micro-batches add up.

        `axes` are the mesh axes that divide the tokens: f and P are of all tokens that pass the layer
        together. With f_e the fraction of them that chose expert e and P_e its mean share, the penalty is n
        · `balance_loss` · E · Σ f_e P_e (Fedus et al. 2021, eq. 4-6; here f adds up to top_k, as in Hugging
        Face's models, and each layer has its own loss) + `z_loss` · Σ logsumexp(logits)² (Zoph et al. 2022,
        eq. 5).

        The tokens of a sum are those of one micro-batch, where the trainer or a pipeline
        (model/layers/pipeline.py) makes several: each has to be even by itself, so such a run has another
        balance loss, while loads and all else are those of the whole batch.
        """

        def total(x: Array) -> Array:
            return jax.lax.psum(x, axes) if axes else x

        E = logits_ME.shape[1]
        chose_MSE = (routes.experts_MS[:, :, None] == jnp.arange(E)) & real_M[:, None, None]
        load_E = total(jnp.sum(chose_MSE, (0, 1), dtype=jnp.float32))
        shares_E = total(jnp.sum(jnp.where(real_M[:, None], routes.shares_ME, 0.0), 0))
        n_real = total(jnp.sum(real_M, dtype=jnp.float32))
        n = jnp.maximum(n_real, 1.0)  # a batch of only padding must not divide by 0
        squares_M = jnp.square(jax.nn.logsumexp(logits_ME.astype(jnp.float32), -1))
        z_loss = self.z_loss * total(jnp.sum(jnp.where(real_M, squares_M, 0.0)))
        # load = n · f and shares = n · P, so that n · f · P is load · shares / n
        balance_loss = self.balance_loss * E * jnp.sum(load_E * shares_E) / n
        return Balance(balance_loss + z_loss, load_E)


def move_bias(
    bias: Float[Array, "*layers E"], load: Float[Array, "*layers E"], *, rate: float
) -> Float[Array, "*layers E"]:
    """The router bias after a step: experts with less than the mean load gain `rate`, those with more lose
    it (Wang et al. 2024, alg. 1).

    `load` are the tokens of the whole batch that chose each expert; the result has the bias's layout at
    rest.
    """
    letters = "NE"[-bias.ndim :]  # a prediction module is not stacked, so its bias has no N
    load = shard(load, letters, at_rest=True)
    shortfall = jnp.mean(load, -1, keepdims=True) - load
    # only the sign, so that a bias moves by the same amount however uneven the loads are
    return bias + rate * jnp.sign(shortfall).astype(bias.dtype)


def move_biases(params: Params, aux: dict[str, Any], *, rate: float) -> Params:
    """Every router bias of a model after a step, by the loads of its layer in `aux`.

    `params` may be only those that are trained, without any router.
    """

    def moved(path: Any, leaf: Array) -> Array:
        *levels, name = (key.key for key in path)
        if not name.startswith("router_bias"):
            return leaf
        # sums are keyed by stack or depth only, since a block has a single feed-forward layer
        levels_of_sums = [level for level in levels if level not in ("block", "feed_forward")]
        sums = reduce(getitem, levels_of_sums, aux)
        return move_bias(leaf, sums[name.replace("router_bias", "load")], rate=rate)

    return jax.tree.map_with_path(moved, params)
