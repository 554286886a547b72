"""The alphabet: a name's last letters say what an array is and how it is laid out on the mesh.

`at_rest` is the layout of parameters, their moments and checkpoints; `in_use` that of activations and of
weights gathered for a product. All meshes have explicit axes: a wrong layout is an error while tracing.
"""

import math
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from model.node import Node

# from the outermost to the innermost: neighbours along `tensor`, which talk most, have the shortest links
AXES = ("data", "stage", "fsdp", "context", "expert", "tensor")


class Letter(NamedTuple):
    """What a letter stands for, and the mesh axes that divide it."""

    meaning: str
    at_rest: tuple[str, ...] = ()
    in_use: tuple[str, ...] = ()


# A letter without axes is replicated. D is divided over `fsdp` at rest and gathered for use: ZeRO-3
# (Rajbhandari et al. 2020).
ALPHABET = {
    # inside of pipelines `stage` is manual, and inside of expert layers `expert` is: there they do not count
    "B": Letter("batch row", (), ("stage", "data", "fsdp", "expert")),
    "L": Letter("position (query)", (), ("context",)),
    # between the products of a block: sequence parallelism (Korthikanti et al. 2022)
    "l": Letter("position (query)", (), ("context", "tensor")),
    "T": Letter("position (key/value)"),
    "D": Letter("model width", ("fsdp",), ()),
    "F": Letter("feed-forward width", ("tensor",), ("tensor",)),
    "H": Letter("query head", ("tensor",), ("tensor",)),
    "K": Letter("key/value head", ("tensor",), ("tensor",)),
    "G": Letter("query heads a key/value head"),
    "A": Letter("width of a head"),
    "V": Letter("vocabulary entry", ("tensor",), ("tensor",)),
    "E": Letter("expert", ("expert",), ("expert",)),
    "M": Letter("routed token"),
    "C": Letter("slot of a buffer of routed tokens"),
    "N": Letter("layer in a stack", ("stage",), ("stage",)),
    "R": Letter("low-rank or latent width"),
    "S": Letter("samples per prompt, beams, experts chosen by a token"),
    "P": Letter("pair or segment slot in a row"),
    "J": Letter("image patch"),
    "Q": Letter("quantization block"),
    "U": Letter("cache page"),
    "W": Letter("another model's width"),
}


def letters_of(name: str) -> str:
    """`layers.w_up_NDF` -> `NDF`; a digit makes a second size under the letter's rule and is dropped."""
    # a capital inside of a name is not yet letters: `a_B_D` has D
    match = re.search(r"_([A-Z][A-Z0-9]*)$", name)
    return re.sub(r"\d", "", match.group(1)) if match else ""


def axes_of(letter: str, size: int | None = None, *, at_rest: bool = False) -> tuple[str, ...]:
    """The axes of the current mesh that divide a letter; those of size 1 are off, and those that are manual
    just now belong to the function that made them so.

    Three exceptions where a `size` does not divide: fewer key/value heads than `tensor` are replicated
    (attention repeats them), and so are positions (one token of decoding has no length to divide) and fewer
    layers than stages (they run before the pipeline).
    """
    mesh = jax.sharding.get_abstract_mesh()
    row = ALPHABET[letter]
    named_axes = row.at_rest if at_rest else row.in_use
    # inside of a `shard_map` an axis is manual: arrays are cut along it already
    explicit = mesh.explicit_axes
    axes = tuple(axis for axis in named_axes if axis in explicit and mesh.shape[axis] > 1)
    n = math.prod(mesh.shape[axis] for axis in axes)
    fewer_heads = letter == "K" and size is not None and n % size == 0
    fewer_layers = letter == "N" and size is not None and size < n
    may_be_replicated = letter in "Ll" or fewer_heads or fewer_layers
    if size is None or size % n == 0 or not may_be_replicated:
        return axes
    # `l` falls back to the axes of L, without `tensor`; whatever else has one axis falls back to none
    outer = axes[:-1]
    return outer if size % math.prod(mesh.shape[axis] for axis in outer) == 0 else ()


def n_parts(letter: str, size: int | None = None, *, at_rest: bool = False) -> int:
    """The number of parts into which the current mesh divides a letter."""
    mesh = jax.sharding.get_abstract_mesh()
    return math.prod(mesh.shape[axis] for axis in axes_of(letter, size, at_rest=at_rest))


def spec(
    letters: str, shape: tuple[int, ...] | None = None, *, at_rest: bool = False
) -> PartitionSpec:
    """The layout of an array with these letters on the current mesh; `.` is a dimension that is never
    divided.

    Axes of size 1 are left out (`lax.scan` refuses a stack that is divided even over a `stage` of size 1); a
    repeated letter shards its first occurrence; with the `shape`, the exceptions of `axes_of` count.

    Raises:
        ValueError: one axis would divide two letters.
    """
    owner: dict[str, str] = {}
    entries: list[Any] = []
    for i, letter in enumerate(letters):
        # a square matrix (DD) would otherwise have one axis on both of its dimensions
        is_whole = letter == "." or letter in letters[:i]
        size = shape[i] if shape else None
        axes = () if is_whole else axes_of(letter, size, at_rest=at_rest)
        for axis in axes:
            # JAX refuses this too, with a message that names neither letters nor a field
            if owner.setdefault(axis, letter) != letter:
                clash = f"letters {owner[axis]} and {letter} of {letters} both lie on {axis}"
                raise ValueError(f"{clash}; rename one or set {axis}=1")
        # JAX compares layouts entry by entry: one axis must be written as its name, and none as None
        entries.append(axes if len(axes) > 1 else next(iter(axes), None))
    return PartitionSpec(*entries)


def named(
    mesh: Mesh, letters: str, shape: tuple[int, ...] | None = None, *, at_rest: bool = False
) -> NamedSharding:
    """`spec` bound to a mesh, for arrays that come from outside a jitted function."""
    # `spec` reads the current mesh, which outside of jit may be another one, or none
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return NamedSharding(mesh, spec(letters, shape, at_rest=at_rest))


def shard(x: jax.Array, letters: str, *, at_rest: bool = False) -> jax.Array:
    """Lay x out by its letters; this may move data."""
    return jax.sharding.reshard(x, spec(letters, x.shape, at_rest=at_rest))


def einsum(equation: str, *operands: jax.Array | Node, dtype: Any = None) -> jax.Array:
    """The product whose letters after the arrow are the layout of its result, accumulated and returned in
    `dtype`. The second of two operands may be a node.

    Raises:
        ValueError: an operand is not laid out as its letters say. JAX would accept it, at twice the
            communication.
    """
    if isinstance(operands[-1], Node):
        x, weight = operands
        # which calls `einsum` again, with arrays
        return weight.product(equation, x, dtype=dtype)
    inputs, output = equation.split("->")
    sizes: dict[str, int] = {}
    for letters, operand in zip(inputs.split(","), operands, strict=True):
        where = f"einsum {equation!r}: operand {letters}"
        if len(letters) != operand.ndim:
            raise ValueError(f"{where} has {operand.ndim} dimensions; give it as many letters")
        # upper: `l` and `L` are the same size in two layouts
        sizes.update(zip(letters.upper(), operand.shape, strict=True))
        actual = jax.typeof(operand).sharding.spec
        wanted = spec(letters, operand.shape)
        if actual != wanted:
            raise ValueError(f"{where} lies as {actual}, not {wanted}; use shard(x, {letters!r})")
    layout = spec(output, tuple(sizes[letter] for letter in output.upper()))
    # a small letter is a layout of its capital: numpy's equation has capitals alone
    return jnp.einsum(
        equation.upper(), *operands, out_sharding=layout, preferred_element_type=dtype
    )


def look_up(table_VD: jax.Array | Node, ids: jax.Array, letters: str) -> jax.Array:
    """Rows of a table, laid out by `letters` (those of ids, then the table's last)."""
    if isinstance(table_VD, Node):
        return table_VD.rows(ids, letters)
    # a table on `tensor` has each row on one device: JAX asks where the result shall be
    return table_VD.at[ids].get(out_sharding=spec(letters, (*ids.shape, table_VD.shape[-1])))


def reshape(x: jax.Array, shape: tuple[int, ...], letters: str) -> jax.Array:
    """Split or join dimensions; on explicit axes a reshape states its layout."""
    return jax.lax.reshape(x, shape, out_sharding=spec(letters, shape))


def zeros(letters: str, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Zeros laid out by their letters (`device=` would be ignored while tracing)."""
    return jnp.zeros(shape, dtype, out_sharding=spec(letters, shape))
