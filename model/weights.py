"""Weights of several arrays: a low-rank update over a frozen base, and quantized codes with their scales.

At rest, as optimizers, checkpoints and layouts see it, such a weight is a small dict of plain arrays instead
of one array, each named by its own letters; the two kinds can be nested:

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
BLOCK = 128  # numbers that share a scale: 4 bytes of scale on 128 bytes of codes


class Sides(NamedTuple):
    """The letters of a matrix: those that count matrices (layers, experts), its inputs, its outputs."""

    shared: str
    inputs: str
    outputs: str

    def a_name(self) -> str:
        """The name of the factor a, from inputs to the rank."""
        return f"a_{self.shared}{self.inputs}R"

    def b_name(self) -> str:
        """The name of the factor b, from the rank to outputs."""
        return f"b_{self.shared}R{self.outputs}"


class LowRank(NamedTuple):
    """base + scale · a · b (Hu et al. 2021, LoRA). Products with x are (x · a) · b, never x · (a · b)."""

    base: Any  # an array or a node
    a: Array
    b: Array
    scale: Float[Array, ""]

    def __getitem__(self, index: Any) -> Any:
        # modules read a weight as `self.w_up_DF[...]`, which has to give the node itself
        return self if index is Ellipsis else tuple.__getitem__(self, index)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight as one array."""
        return self.base.shape

    def product(self, equation: str, x: Array, *, dtype: Any = None) -> Array:
        """einsum(equation, x, weight) as x · base + scale · (x · a) · b."""
        inputs, output = equation.split("->")
        x_letters, w_letters = inputs.split(",")
        # The equation may use R itself (for latents), so the rank gets a letter that is free in it; no mesh
        # axis shards any of these.
        rank = next(letter for letter in "RQPJSU" if letter not in equation)
        a_letters, b_letters = self._letters(w_letters, rank)
        first, second = (self.a, a_letters), (self.b, b_letters)
        # Latent attention also multiplies by the transpose; then a letter of b is summed over.
        if not set(w_letters) - set(output.upper()) <= set(a_letters):
            first, second = second, first
        # The array between the products has the letters that x shares with the result, in the result's
        # layout: if the result is sharded over `tensor`, so is this narrow array.
        common = "".join(letter for letter in output if letter.upper() in x_letters.upper())
        narrow = einsum(f"{x_letters},{first[1]}->{common}{rank}", x, first[0])
        narrow = self.scaled(narrow)
        update = einsum(f"{common}{rank},{second[1]}->{output}", narrow, second[0], dtype=dtype)
        return einsum(equation, x, self.base, dtype=dtype) + update

    def rows(self, ids: Int[Array, "..."], letters: str) -> Array:
        """The rows of a table for these ids, laid out by `letters`."""
        narrow_letters = f"{letters[:-1]}R"
        narrow = self.scaled(look_up(self.a, ids, narrow_letters))
        update = einsum(f"{narrow_letters},R{letters[-1]}->{letters}", narrow, self.b)
        return look_up(self.base, ids, letters) + update

    def scaled(self, narrow: Array) -> Array:
        """The array between a and b times the scale: it is the narrowest one to scale. The scale is float32,
        since rounded to bfloat16 it would differ from that of the merged weight.
        """
        return (narrow * self.scale).astype(narrow.dtype)

    def dense(self) -> Array:
        """The weight as one array, in the layout of its base.

        Ranks are added one by one, without a matmul, so that the bits are the same on every mesh.
        """
        base = as_array(self.base)
        n_shared = (
            self.a.ndim + self.b.ndim - 2 - base.ndim
        )  # both have R and the shared dimensions
        n_outputs = self.b.ndim - 1 - n_shared
        a_ranks = jnp.moveaxis(self.a, -1, 0)
        b_ranks = jnp.moveaxis(self.b, n_shared, 0)
        base_layout = jax.typeof(base).sharding.spec.partitions
        # At rest b may be sharded along other letters than the base: it takes the base's layout here.
        b_layout = (None, *base_layout[:n_shared], *base_layout[base.ndim - n_outputs :])
        b_ranks = jax.sharding.reshard(b_ranks, jax.sharding.PartitionSpec(*b_layout))
        # a lacks the dimensions of outputs, and b those of inputs; inserted with size 1, they make the
        # product of a rank an outer product by broadcasting.
        a_gaps = tuple(range(self.a.ndim - 1, base.ndim))
        b_gaps = tuple(range(n_shared, base.ndim - n_outputs))

        def add(total: Array, rank: tuple[Array, Array]) -> tuple[Array, None]:
            a, b = rank
            return total + jnp.expand_dims(a, a_gaps) * jnp.expand_dims(b, b_gaps), None

        # Summed in the dtype of the factors, float32 at rest: in a bfloat16 base's dtype small terms would be
        # rounded away one by one.
        zero = jnp.zeros_like(base, dtype=self.a.dtype)
        update = jax.lax.scan(add, zero, (a_ranks, b_ranks))[0]
        # a stack has a scale for each layer
        scale = self.scale.reshape(-1, *(1,) * (base.ndim - 1)) if self.scale.ndim else self.scale
        return base + scale * update

    def map(self, change: Callable[[Array, str], Any], letters: str) -> "LowRank":
        """The node with `change(array, its letters)` for each array; `letters` are those of the weight."""
        a_letters, b_letters = self._letters(letters, "R")
        base = mapped(self.base, letters, change)
        return LowRank(
            base, change(self.a, a_letters), change(self.b, b_letters), change(self.scale, "")
        )

    def _letters(self, letters: str, rank: str) -> tuple[str, str]:
        """The letters of a and b, from those of the weight and the numbers of dimensions."""
        n_shared = self.a.ndim + self.b.ndim - 2 - len(letters)
        n_before = self.a.ndim - 1
        return letters[:n_before] + rank, letters[:n_shared] + rank + letters[n_before:]


class Quantized(NamedTuple):
    """codes · scale, with a scale for each block along one dimension; see `quantize`."""

    codes: Int8[Array, "..."]
    scale: Float[Array, "..."]

    def __getitem__(self, index: Any) -> Any:
        # see LowRank
        return self if index is Ellipsis else tuple.__getitem__(self, index)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight as one array."""
        return self.codes.shape

    def product(self, equation: str, x: Array, *, dtype: Any = None) -> Array:
        """einsum(equation, x, weight); XLA may fuse the scaling into the product."""
        return einsum(equation, x, self.dense(), dtype=dtype)

    def rows(self, ids: Int[Array, "..."], letters: str) -> Array:
        """The rows of a table for these ids, laid out by `letters`; only these rows are scaled."""
        codes = look_up(self.codes, ids, letters)
        # blocks of a table run along its ids: row i has the scale i // block
        block = self.codes.shape[0] // self.scale.shape[0]
        return codes.astype(self.scale.dtype) * look_up(self.scale, ids // block, letters)

    def dense(self) -> Array:
        """The weight as one array, in the dtype of the scales and the layout of the codes."""
        axis = self._axis()
        block = self.codes.shape[axis] // self.scale.shape[axis]
        scale = jnp.repeat(self.scale, block, axis)
        # Scales are replicated along Q, codes may be sharded: each device keeps the scales of its codes.
        scale = jax.sharding.reshard(scale, jax.typeof(self.codes).sharding.spec)
        return self.codes.astype(scale.dtype) * scale

    def map(self, change: Callable[[Array, str], Any], letters: str) -> "Quantized":
        """The node with `change(array, its letters)` for each array; `letters` are those of the weight."""
        axis = self._axis()
        scale_letters = f"{letters[:axis]}Q{letters[axis + 1 :]}"
        return Quantized(change(self.codes, letters), change(self.scale, scale_letters))

    def _axis(self) -> int:
        """The dimension of the blocks: along it there are fewer scales than codes."""
        sizes = zip(self.codes.shape, self.scale.shape, strict=True)
        # 0: if every block is a single number, all dimensions have as many scales as codes
        return next((i for i, (n_codes, n_scales) in enumerate(sizes) if n_codes != n_scales), 0)


Weight = Array | LowRank | Quantized


def is_weight(leaf: Any) -> bool:
    """Whether a leaf of a parameter tree is a weight of several arrays; other dicts are levels of names."""
    return isinstance(leaf, dict) and any(re.match("(base|codes)_", name) for name in leaf)


def node(leaf: Any) -> Any:
    """A weight in use: the node of a dict of arrays; an array stays as it is."""
    if not isinstance(leaf, dict):
        return leaf
    # without their letters, which in use follow from the equation
    arrays = {name.rsplit("_", 1)[0]: array for name, array in leaf.items()}
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
        weight = node(
            jax.tree.map(_on_device, weight)
        )  # trained factors may be offloaded to the host
    return weight.dense() if isinstance(weight, tuple) else weight


def _on_device(x: Array) -> Array:
    return jax.device_put(x, jax.memory.Space.Device) if on_host(x) else x


def mapped(weight: Any, letters: str, change: Callable[[Array, str], Any]) -> Any:
    """`change(array, its letters)` of an array, or of each array of a node; `letters` are the weight's."""
    return weight.map(change, letters) if isinstance(weight, tuple) else change(weight, letters)


def without_codes(weight: Any) -> Any:
    """The weight without quantization: codes are multiplied by their scales, low-rank updates stay."""
    if isinstance(weight, LowRank):
        return weight._replace(base=without_codes(weight.base))
    return as_array(weight)


def sides(name: str) -> Sides:
    """`layers.wo_NHAD` -> (N, HA, D): heads and their width are on one side."""
    letters = name.rsplit("_", 1)[1]
    # N and E count matrices; then come the inputs, which are heads with their width or a single letter; the
    # rest are the outputs.
    match = re.fullmatch(r"(N?E?)([HK]A\d*|[A-Z]\d*)(.+)", letters)
    assert match, name  # only for names of matrices
    return Sides(*match.groups())


def quantize(name: str, x: Float[Array, "..."]) -> dict[str, Array]:
    """{codes, scale} of a matrix at rest, both with names that end in their letters.

    The numbers of a block along the first input dimension share the scale max|x| / 127, so none is off by
    more than half of it. A block has 128 numbers, or where 128 does not divide the dimension, their greatest
    common divisor.
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
        # the largest number of a block gets the code 127 or -127, so that none has to be clipped
        return jnp.max(jnp.abs(blocks), axis + 1) / INT8_LARGEST

    def codes_of(x: Array, scale: Array) -> Array:
        steps = jnp.repeat(scale, block, axis)
        # a block of zeros has scale 0 and codes 0
        return jnp.round(x / jnp.where(steps > 0, steps, 1)).astype(jnp.int8)

    # Under automatic axes: blocks need not divide over the devices that shard the dimension, and XLA moves
    # what it must.
    x = x.astype(jnp.float32)
    scale = library(scales_of, letters_of(scale_name), at_rest=True)(x)
    codes = library(codes_of, letters_of(codes_name), at_rest=True)(x, scale)
    return {
        codes_name: shard(codes, letters_of(codes_name), at_rest=True),
        scale_name: shard(scale, letters_of(scale_name), at_rest=True),
    }
