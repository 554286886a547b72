"""Adaptations: which parameters a phase trains, and what it adds to them.

`LoRA` turns a matrix into a dict of arrays (model/weights.py), of which a and b are trained:

    before                     trainable                  frozen
    blocks                     blocks                     blocks
      attention                  attention                  attention
        wq_NDHA                    wq_NDHA                    wq_NDHA
                                     a_NDR, b_NRHA              base_NDHA, scale_N
      attention_norm                                        attention_norm
        scale_ND                                              scale_ND

`merge` joins the two trees by name, so it costs nothing and also works on shapes.
"""

import math
import re
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key
from pydantic import BaseModel, PositiveFloat, PositiveInt

from model.api import Params, key_of
from model.sharding import letters_of, spec
from model.size import is_matrix
from model.stages import in_memory_order
from model.weights import Sides, as_array, is_weight, quantize, sides


@runtime_checkable
class Adaptation(Protocol):
    """Splits parameters into those that the optimizer trains and those that are frozen."""

    def split(
        self, params: Params, key: Key[Array, ""], *, rounds: int = 1
    ) -> tuple[Params, Params]:
        """(trainable, frozen); merged again they compute the same as `params`. Layers are in the memory order
        of the mesh's stages, which the pipeline passes `rounds` times.
        """
        ...

    def merge(self, trainable: Params, frozen: Params) -> Params:
        """The parameters that the model reads; works on arrays and on shapes."""
        ...

    def dense(self, params: Params) -> Params:
        """Merged parameters as plain arrays, one for each weight, without any adaptation."""
        ...

    def reference(self, frozen: Params) -> Params | None:
        """The parameters before training if the frozen ones determine them, else None."""
        ...


class Full(BaseModel, frozen=True, extra="forbid", strict=True):
    """All parameters are trained."""

    def split(
        self, params: Params, key: Key[Array, ""], *, rounds: int = 1
    ) -> tuple[Params, Params]:
        """Everything is trainable, and nothing is frozen."""
        return params, {}

    def merge(self, trainable: Params, frozen: Params) -> Params:
        """The trainable parameters, which are all of them."""
        return trainable

    def dense(self, params: Params) -> Params:
        """The parameters as they are: nothing was added to them."""
        return params

    def reference(self, frozen: Params) -> Params | None:
        """None: all parameters change, so none of the original ones are left."""
        return None


class Only(BaseModel, frozen=True, extra="forbid", strict=True):
    """Only parameters whose dotted name matches `pattern` are trained: a regular expression, searched for
    in the name, such as `norm` or `blocks.feed_forward`.
    """

    pattern: str

    def split(
        self, params: Params, key: Key[Array, ""], *, rounds: int = 1
    ) -> tuple[Params, Params]:
        """The parameters that match, and the others.

        Raises:
            ValueError: none matches, or the pattern is not a regular expression.
        """
        names = _leaf_names(params)
        try:
            # search and not fullmatch, so that `norm` means the norms of every level
            trained = {name for name in names if re.search(self.pattern, name)}
        except re.error as error:
            problem = f"is no regular expression ({error})"
            raise ValueError(f"adaptation.pattern={self.pattern!r} {problem}; mend it") from None
        if not trained:
            known = f"this architecture has {', '.join(names)}"
            raise ValueError(f"adaptation.pattern={self.pattern!r} matches no parameter; {known}")
        return _chosen(params, trained), _chosen(params, set(names) - trained)

    def merge(self, trainable: Params, frozen: Params) -> Params:
        """Both trees joined by name."""
        return _joined(trainable, frozen)

    def dense(self, params: Params) -> Params:
        """The parameters as they are: nothing was added to them."""
        return params

    def reference(self, frozen: Params) -> Params | None:
        """None: the original values of trained parameters are not kept."""
        return None


class LoRA(BaseModel, frozen=True, extra="forbid", strict=True):
    """A low-rank update of each target matrix is trained: w + alpha / rank · a · b (Hu et al. 2021), with
    `rslora` w + alpha / sqrt(rank) · a · b (Kalajdzievski 2023), which larger ranks need.

    `targets` are names without letters (`wq`), or regular expressions that must match all of such a name
    or of a dotted one (`blocks.attention.w.*`); by default all matrices of attention and feed-forward
    layers, experts included. Tables (`embed`, `unembed`, `positions`) can be targets; with tied
    embeddings the output matrix changes too. `base="int8"` quantizes the targets' frozen weights to 8
    bits (as QLoRA does to 4 bits, Dettmers et al. 2023); tables are not quantized.
    """

    rank: PositiveInt
    alpha: PositiveFloat
    targets: tuple[str, ...] = ("w.*",)
    rslora: bool = False
    base: Literal["as_is", "int8"] = "as_is"

    @property
    def scale(self) -> float:
        """The factor of a · b."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def split(
        self, params: Params, key: Key[Array, ""], *, rounds: int = 1
    ) -> tuple[Params, Params]:
        """The factors as trainable, everything else as frozen.

        Factors are float32 whatever the parameters are, since small updates would be rounded away. `a` is
        uniform within 1 / sqrt(inputs), `b` is zero, so that the merged weights are at first the same.

        Raises:
            ValueError: a target matches no matrix.
        """
        targets = self._targets(_leaf_names(params))

        def trainable(name: str, x: Array) -> Params | None:
            return self._factors(name, x, key, rounds) if name in targets else None

        def frozen(name: str, x: Array) -> Any:
            return self._frozen(name, x) if name in targets else x

        return _replaced(params, trainable), _replaced(params, frozen)

    def merge(self, trainable: Params, frozen: Params) -> Params:
        """Both trees joined; every target becomes a dict of its base, its factors and their scale."""
        return _joined(trainable, frozen)

    def dense(self, params: Params) -> Params:
        """Base plus update for each target, added in float32 and cast to the base's dtype (float32 if it is
        quantized).
        """
        return _arrays(params)

    def reference(self, frozen: Params) -> Params | None:
        """The base weights: they are the parameters before training, when `b` was zero."""
        return _bases(frozen)

    def _targets(self, names: list[str]) -> set[str]:
        # without routers, which are multiplied in float32 outside of `einsum`, and are small
        matrices = [
            name for name in names if is_matrix(name) and not _bare(name).startswith("router")
        ]
        targets: set[str] = set()
        for target in self.targets:
            matched = {name for name in matrices if _matches(target, name)}
            if not matched:
                known = ", ".join(dict.fromkeys(map(_bare, matrices)))
                problem = f"{target!r} matches no matrix of the architecture"
                raise ValueError(f"adaptation.targets: {problem}; its matrices are {known}")
            targets |= matched
        return targets

    def _factors(self, name: str, x: Array, key: Key[Array, ""], rounds: int) -> Params:
        letters = sides(name)
        shapes = _shapes(letters, x.shape)
        # each layer and expert (`shared`) has its own factors
        a_name, b_name = letters.a_name(), letters.b_name()
        a_shape = (*shapes.shared, *shapes.inputs, self.rank)
        b_shape = (*shapes.shared, self.rank, *shapes.outputs)
        # Kaiming-uniform with slope sqrt(5), as in the authors' code and PEFT: within 1 / sqrt(inputs)
        bound = math.prod(shapes.inputs) ** -0.5
        a_layout = spec(letters_of(a_name), a_shape, at_rest=True)
        b_layout = spec(letters_of(b_name), b_shape, at_rest=True)
        # a key by the matrix's name: factors do not depend on which other targets there are
        own_key = key_of(key, name)
        a = jax.random.uniform(own_key, a_shape, minval=-bound, maxval=bound, out_sharding=a_layout)
        # Drawn in the order of the model: a layer's factor is then the same on every mesh.
        factors = in_memory_order({a_name: a}, rounds=rounds)
        return {**factors, b_name: jnp.zeros(b_shape, out_sharding=b_layout)}

    def _frozen(self, name: str, x: Array) -> Params:
        suffix = name.rsplit("_", 1)[1]
        letters = letters_of(name)
        # tables are not quantized: blocks would join rows of unrelated tokens under one scale
        is_table = letters[0] in "VT" or letters[-1] == "V"
        base = x if self.base == "as_is" or is_table else quantize(name, x)
        # a scale for each layer, so that a scan over the stack can slice it like the other arrays
        stack = "N" if suffix.startswith("N") else ""
        n_layers = x.shape[: len(stack)]
        layout = spec(stack, n_layers, at_rest=True)
        scale = jnp.full(n_layers, self.scale, jnp.float32, out_sharding=layout)
        return {f"base_{suffix}": base, f"scale_{stack}".removesuffix("_"): scale}


class _Shapes(NamedTuple):
    shared: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def _shapes(letters: Sides, shape: tuple[int, ...]) -> _Shapes:
    """The sizes of a matrix by the sides of its letters."""
    n_shared = len(letters.shared)
    n_before = n_shared + len(letters_of(f"_{letters.inputs}"))
    return _Shapes(shape[:n_shared], shape[n_shared:n_before], shape[n_before:])


def _bare(name: str) -> str:
    """`blocks.attention.wq_NDHA` -> `wq`."""
    return name.rsplit(".", 1)[-1].rsplit("_", 1)[0]


def _matches(target: str, name: str) -> bool:
    # names without letters, so that a target need not tell whether it is in a stack
    candidates = (_bare(name), name.rsplit("_", 1)[0])
    try:
        return target in candidates or any(
            re.fullmatch(target, candidate) for candidate in candidates
        )
    except re.error as error:
        problem = f"{target!r} is no regular expression ({error})"
        raise ValueError(f"adaptation.targets: {problem}; mend it") from None


def _leaf_names(params: Params, above: str = "") -> list[str]:
    names = []
    for key, value in params.items():
        names += (
            _leaf_names(value, f"{above}{key}.") if isinstance(value, dict) else [f"{above}{key}"]
        )
    return names


def _replaced(params: Params, change: Callable[[str, Array], Any], above: str = "") -> Params:
    """The tree with `change(dotted name, leaf)` for each leaf, without leaves for which that is None, and
    without levels that become empty.
    """
    changed = {}
    for key, value in params.items():
        if isinstance(value, dict):
            # an empty level would be a dict without leaves in optimizers and checkpoints
            new = _replaced(value, change, f"{above}{key}.") or None
        else:
            new = change(f"{above}{key}", value)
        if new is not None:
            changed[key] = new
    return changed


def _chosen(params: Params, names: set[str]) -> Params:
    return _replaced(params, lambda name, x: x if name in names else None)


def _joined(first: Params, second: Params) -> Params:
    """Join two trees that share levels but no leaf; keys are sorted, as jit returns dicts."""
    both = {}
    # a weight's dict may be in both: a and b in one tree, the base in the other
    for key in sorted(first.keys() | second.keys()):
        if key in first and key in second:
            both[key] = _joined(first[key], second[key])
        else:
            both[key] = first[key] if key in first else second[key]
    return both


def _arrays(params: Params) -> Params:
    return {
        key: _array(value) if _is_leaf(value) else _arrays(value) for key, value in params.items()
    }


def _array(weight: Any) -> Array:
    if not is_weight(weight):
        return weight
    base = _base(weight)
    # codes are integers and do not record the original dtype
    dtype = jnp.float32 if isinstance(base, dict) else base.dtype
    # factors and scale are float32, so a bfloat16 base is added in float32 and the sum rounded once
    return as_array(weight).astype(dtype)


def _bases(frozen: Params) -> Params:
    return {
        key: _base(value) if _is_leaf(value) else _bases(value) for key, value in frozen.items()
    }


def _base(weight: Any) -> Any:
    if not isinstance(weight, dict):
        return weight
    return next(value for name, value in weight.items() if name.startswith("base_"))


def _is_leaf(value: Any) -> bool:
    return is_weight(value) or not isinstance(value, dict)
