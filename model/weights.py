"""Weights that are more than one array: a low-rank update over a frozen base, and codes with their scales.

At rest, where optimizers, checkpoints and layouts see it, such a weight is a small dict of plain arrays in
the place of the one array, each named by its own letters; both kinds can be nested:

    w_up_NDF: [N, D, F]     ->     w_up_NDF: base_NDF [N, D, F]   (or again codes_NDF and scale_NQF)
                                             a_NDR    [N, D, R]
                                             b_NRF    [N, R, F]
                                             scale_N  [N]         the weight is base + scale · a · b

In use, after a stack has cast and gathered the arrays of one layer, the dict becomes a node (`LowRank`,
`Quantized`). `sharding.einsum` and `look_up` ask a node for its product, so a layer is written as if its
weight were an array.
"""

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Int8

from model.exits import library
from model.mesh import on_host
from model.sharding import einsum, letters_of, look_up, shard

INT8_LARGEST = 127  # codes are symmetric: -128 stays unused, so that w and -w have opposite codes
BLOCK = 128  # numbers that share a scale: 4 bytes of scale on 128 of codes, and no lane of a TPU is split


class Sides(NamedTuple):
    """The letters of a matrix: of what several matrices share (layers, experts), inputs, and outputs."""

    shared: str
    inputs: str
    outputs: str

    def a_name(self) -> str:
        """Of the factor that a product meets first."""
        return f"a_{self.shared}{self.inputs}R"

    def b_name(self) -> str:
        """Of the factor that a product meets second."""
        return f"b_{self.shared}R{self.outputs}"


class LowRank(NamedTuple):
    """base + scale · a · b (Hu et al. 2021, LoRA). The product a · b is never formed where x is at hand."""

    base: Any  # an array or a node
    a: Array
    b: Array
    scale: Float[Array, ""]

    def __getitem__(self, index: Any) -> Any:
        # a module reads its weight as `self.w_up_DF[...]`, which is the node itself
        return self if index is Ellipsis else tuple.__getitem__(self, index)

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the weight as one array."""
        return self.base.shape

    def product(self, equation: str, x: Array, *, dtype: Any = None) -> Array:
        """einsum(equation, x, weight) as x · base + scale · (x · a) · b."""
        inputs, output = equation.split("->")
        x_letters, w_letters = inputs.split(",")
        # the equation may use R itself (latents), so the rank takes a letter that is free in it; these lie on
        # no mesh axis
        rank = next(letter for letter in "RQPJSU" if letter not in equation)
        a_letters, b_letters = self._letters(w_letters, rank)
        first, second = (self.a, a_letters), (self.b, b_letters)
        # latent attention also multiplies with the transpose: what is summed over is then a letter of b
        if not set(w_letters) - set(output.upper()) <= set(a_letters):
            first, second = second, first
        # between the products x keeps the letters that the result has too, and their layout there: where the
        # result is scattered over `tensor`, so is the narrow array
        kept = "".join(letter for letter in output if letter.upper() in x_letters.upper())
        narrow = einsum(f"{x_letters},{first[1]}->{kept}{rank}", x, first[0])
        narrow = self.scaled(narrow)
        update = einsum(f"{kept}{rank},{second[1]}->{output}", narrow, second[0], dtype=dtype)
        return einsum(equation, x, self.base, dtype=dtype) + update

    def rows(self, ids: Int[Array, "..."], letters: str) -> Array:
        """The rows of a table for these ids, laid out by `letters`."""
        narrow_letters = f"{letters[:-1]}R"
        narrow = self.scaled(look_up(self.a, ids, narrow_letters))
        update = einsum(f"{narrow_letters},R{letters[-1]}->{letters}", narrow, self.b)
        return look_up(self.base, ids, letters) + update

    def scaled(self, narrow: Array) -> Array:
        """What is between a and b, which is the narrowest array to scale, times the scale. That is float32:
        rounded to bfloat16 it would be another one than the merged weight has.
        """
        return (narrow * self.scale).astype(narrow.dtype)

    def dense(self) -> Array:
        """The weight as one array, in the layout of its base: summed rank by rank, without a matmul, so that
        the bits are the same on every mesh.
        """
        base = as_array(self.base)
        n_shared = self.a.ndim + self.b.ndim - 2 - base.ndim  # R is in both, what is shared too
        n_outputs = self.b.ndim - 1 - n_shared
        a_ranks = jnp.moveaxis(self.a, -1, 0)
        b_ranks = jnp.moveaxis(self.b, n_shared, 0)
        base_layout = jax.typeof(base).sharding.spec.partitions
        # at rest b may be divided over the very axis that divides a: its letters have another first one
        b_layout = (None, *base_layout[:n_shared], *base_layout[base.ndim - n_outputs :])
        b_ranks = jax.sharding.reshard(b_ranks, jax.sharding.PartitionSpec(*b_layout))
        # a lacks the dimensions of outputs and b those of inputs: as gaps of size 1 they make each
        # rank an outer product by broadcasting
        a_gaps = tuple(range(self.a.ndim - 1, base.ndim))
        b_gaps = tuple(range(n_shared, base.ndim - n_outputs))

        def add(total: Array, rank: tuple[Array, Array]) -> tuple[Array, None]:
            a, b = rank
            return total + jnp.expand_dims(a, a_gaps) * jnp.expand_dims(b, b_gaps), None

        # in the dtype of the factors, float32 at rest, and not in the base's: small terms would be
        # rounded away one by one
        none = jnp.zeros_like(base, dtype=self.a.dtype)
        update = jax.lax.scan(add, none, (a_ranks, b_ranks))[0]
        # a stack has a scale a layer
        scale = self.scale.reshape(-1, *(1,) * (base.ndim - 1)) if self.scale.ndim else self.scale
        return base + scale * update

    def map(self, change: Callable[[Array, str], Any], letters: str) -> "LowRank":
        """A node of what `change` makes of each array and its letters; `letters` are those of the weight."""
        a_letters, b_letters = self._letters(letters, "R")
        base = mapped(self.base, letters, change)
        return LowRank(
            base, change(self.a, a_letters), change(self.b, b_letters), change(self.scale, "")
        )

    def _letters(self, letters: str, rank: str) -> tuple[str, str]:
        """Of a and b, from those of the weight: how many are whose follows from the dimensions."""
        n_shared = self.a.ndim + self.b.ndim - 2 - len(letters)
        n_before = self.a.ndim - 1
        return letters[:n_before] + rank, letters[:n_shared] + rank + letters[n_before:]


class Quantized(NamedTuple):
    """codes · scale, a scale for each block along one dimension; see `quantize`."""

    codes: Int8[Array, "..."]
    scale: Float[Array, "..."]

    def __getitem__(self, index: Any) -> Any:
        # see LowRank
        return self if index is Ellipsis else tuple.__getitem__(self, index)

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the weight as one array."""
        return self.codes.shape

    def product(self, equation: str, x: Array, *, dtype: Any = None) -> Array:
        """einsum(equation, x, weight); the compiler may join the scaling with the product."""
        return einsum(equation, x, self.dense(), dtype=dtype)

    def rows(self, ids: Int[Array, "..."], letters: str) -> Array:
        """The rows of a table for these ids, laid out by `letters`; only they are scaled."""
        codes = look_up(self.codes, ids, letters)
        # blocks of a table run along its ids: row i has the scale i // block
        block = self.codes.shape[0] // self.scale.shape[0]
        return codes.astype(self.scale.dtype) * look_up(self.scale, ids // block, letters)

    def dense(self) -> Array:
        """The weight as one array, in the dtype of the scales and the layout of the codes."""
        axis = self._axis()
        block = self.codes.shape[axis] // self.scale.shape[axis]
        scale = jnp.repeat(self.scale, block, axis)
        # scales are replicated along the blocks, codes need not be: each device takes those of its codes
        scale = jax.sharding.reshard(scale, jax.typeof(self.codes).sharding.spec)
        return self.codes.astype(scale.dtype) * scale

    def map(self, change: Callable[[Array, str], Any], letters: str) -> "Quantized":
        """A node of what `change` makes of each array and its letters; `letters` are those of the weight."""
        axis = self._axis()
        scale_letters = f"{letters[:axis]}Q{letters[axis + 1 :]}"
        return Quantized(change(self.codes, letters), change(self.scale, scale_letters))

    def _axis(self) -> int:
        """The dimension along which numbers share a scale: there are fewer scales than codes along it."""
        sizes = zip(self.codes.shape, self.scale.shape, strict=True)
        # where every block is one number, any dimension has as many scales as codes
        return next((i for i, (n_codes, n_scales) in enumerate(sizes) if n_codes != n_scales), 0)


Weight = Array | LowRank | Quantized


def is_weight(leaf: Any) -> bool:
    """Whether a dict of a parameter tree is one weight of several arrays, and not a level of names."""
    return isinstance(leaf, dict) and any(re.match("(base|codes)_", name) for name in leaf)


def node(leaf: Any) -> Any:
    """A weight in use: the node of a dict of arrays; an array stays as it is."""
    if not isinstance(leaf, dict):
        return leaf
    # letters are no longer needed: in use they follow from the equation
    arrays = {name.rsplit("_", 1)[0]: part for name, part in leaf.items()}
    if "codes" in arrays:
        return Quantized(arrays["codes"], arrays["scale"])
    return LowRank(node(arrays["base"]), arrays["a"], arrays["b"], arrays["scale"])


def nodes(tree: dict[str, Any]) -> dict[str, Any]:
    """A tree of parameters in which every weight of several arrays is a node."""

    def replaced(leaf: Any) -> Any:
        if is_weight(leaf) or not isinstance(leaf, dict):
            return node(leaf)
        return nodes(leaf)

    return {name: replaced(leaf) for name, leaf in tree.items()}


def as_array(weight: Any) -> Array:
    """A weight, in use or at rest, as one array."""
    if isinstance(weight, dict):
        weight = node(jax.tree.map(_on_device, weight))  # trained factors may rest in host memory
    return weight.dense() if isinstance(weight, tuple) else weight


def _on_device(x: Array) -> Array:
    return jax.device_put(x, jax.memory.Space.Device) if on_host(x) else x


def mapped(weight: Any, letters: str, change: Callable[[Array, str], Any]) -> Any:
    """`change(array, its letters)` of a weight, or of each array of a node; `letters` are the weight's."""
    return weight.map(change, letters) if isinstance(weight, tuple) else change(weight, letters)


def without_codes(weight: Any) -> Any:
    """A weight whose codes are multiplied with their scales; what is low-rank in it stays so."""
    if isinstance(weight, LowRank):
        return weight._replace(base=without_codes(weight.base))
    return as_array(weight)


def sides(name: str) -> Sides:
    """`layers.wo_NHAD` -> (N, HA, D): a head and its width are on one side."""
    letters = name.rsplit("_", 1)[1]
    # N and E number matrices; then comes the input side, a head with its width or one letter, and
    # what is left is the output side
    match = re.fullmatch(r"(N?E?)([HK]A\d*|[A-Z]\d*)(.+)", letters)
    assert match, name  # only for names of matrices
    return Sides(*match.groups())


def quantize(name: str, x: Float[Array, "..."]) -> dict[str, Array]:
    """{codes, scale} of a matrix at rest, both named by its letters.

    The numbers of a block, up to 128 along the first input dimension, share the scale max|x| / 127, so that
    none is off by more than half of it. Where 128 does not divide the dimension, blocks are as long as their
    greatest common divisor.
    """
    shared, inputs, outputs = sides(name)
    axis = len(letters_of(f"_{shared}")) if shared else 0
    size = x.shape[axis]
    block = math.gcd(size, BLOCK)
    further_inputs = re.sub(r"^[A-Z]\d*", "", inputs)  # A of HA
    codes_name = f"codes_{shared}{inputs}{outputs}"
    scale_name = f"scale_{shared}Q{further_inputs}{outputs}"

    def scales_of(x: Array) -> Array:
        blocks = x.reshape(*x.shape[:axis], size // block, block, *x.shape[axis + 1 :])
        # so that the largest number of a block has the code 127 or -127, and none has to be
        # clipped
        return jnp.max(jnp.abs(blocks), axis + 1) / INT8_LARGEST

    def codes_of(x: Array, scale: Array) -> Array:
        steps = jnp.repeat(scale, block, axis)
        # a block of zeros has the scale 0 and the codes 0
        return jnp.round(x / jnp.where(steps > 0, steps, 1)).astype(jnp.int8)

    # blocks need not divide over the devices that divide the dimension: the partitioner moves what it must
    x = x.astype(jnp.float32)
    scale = library(scales_of, letters_of(scale_name), at_rest=True)(x)
    codes = library(codes_of, letters_of(codes_name), at_rest=True)(x, scale)
    return {
        codes_name: shard(codes, letters_of(codes_name), at_rest=True),
        scale_name: shard(scale, letters_of(scale_name), at_rest=True),
    }
