"""The alphabet: a name's last letters say what an array is and how it is laid out on the mesh. The only file
that knows mesh axes.

`at_rest` is the layout of parameters, their moments and checkpoints; `in_use` that of activations and of
weights gathered for a product. The small letter `l` is L between the products of a block, where positions
are divided over `tensor` too (sequence parallelism, Korthikanti et al. 2022). All meshes have explicit
axes: a wrong layout is an error while tracing.
"""

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

# from the outermost to the innermost: neighbours along `tensor`, which talk most, have the shortest links
AXES = ("data", "stage", "fsdp", "context", "expert", "tensor")


class Letter(NamedTuple):
    """What a letter stands for, and the mesh axes that divide it; `between` counts where it is written
    small.
    """

    meaning: str
    at_rest: tuple[str, ...] = ()
    in_use: tuple[str, ...] = ()
    between: tuple[str, ...] = ()


# A letter without axes is replicated. D is divided over `fsdp` at rest and gathered for use: ZeRO-3
# (Rajbhandari et al. 2020).
ALPHABET = {
    # inside of pipelines `stage` is manual, and inside of expert layers `expert` is: there they do not count
    "B": Letter("batch row", (), ("stage", "data", "fsdp", "expert")),
    "L": Letter("position (query)", (), ("context",), ("context", "tensor")),
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


def undivided() -> jax.sharding.use_abstract_mesh:
    """Trace shapes without layouts, so that no size has to divide: under automatic axes, no axis divides a
    letter. Without a mesh, as under one device that nobody has.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        mesh = AbstractMesh((1,) * len(AXES), AXES)
    # `axes_of` counts explicit axes alone
    automatic = dict.fromkeys(mesh.axis_names, AxisType.Auto)
    return jax.sharding.use_abstract_mesh(mesh.update_axis_types(automatic))


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
    row = ALPHABET[letter.upper()]
    if letter.islower():
        named_axes = row.between
    else:
        named_axes = row.at_rest if at_rest else row.in_use
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))

    def is_on(axis: str) -> bool:
        # inside of a `shard_map` an axis is manual: arrays are cut along it already
        return kinds.get(axis) == AxisType.Explicit and mesh.shape[axis] > 1

    axes = tuple(filter(is_on, named_axes))
    n = math.prod(mesh.shape[axis] for axis in axes)
    if size is None or size % n == 0 or not _may_be_replicated(letter, size, n):
        return axes
    # `l` falls back to the axes of L, without `tensor`; whatever else has one axis falls back to none
    outer = axes[:-1]
    return outer if size % math.prod(mesh.shape[axis] for axis in outer) == 0 else ()


def _may_be_replicated(letter: str, size: int, n: int) -> bool:
    fewer_heads = letter == "K" and n % size == 0
    fewer_layers = letter == "N" and size < n
    return letter in "Ll" or fewer_heads or fewer_layers


def n_parts(letter: str, size: int | None = None, *, at_rest: bool = False) -> int:
    """The number of parts into which the current mesh divides a letter."""
    mesh = jax.sharding.get_abstract_mesh()
    return math.prod(mesh.shape[axis] for axis in axes_of(letter, size, at_rest=at_rest))


def platform() -> str:
    """`cpu`, `gpu` or `tpu`: of the current mesh, whose devices need not be attached; without a mesh, of
    this process.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.platform if device else jax.default_backend()


def device_kind() -> str:
    """The name that the devices of the current mesh give themselves, such as `TPU v5`."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.device_kind if device else jax.devices()[0].device_kind


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
        if letter == "." or letter in letters[:i]:
            entries.append(None)
            continue
        axes = axes_of(letter, shape[i] if shape else None, at_rest=at_rest)
        for axis in axes:
            # JAX refuses this too, with a message that names neither letters nor a field
            if owner.setdefault(axis, letter) != letter:
                clash = f"letters {owner[axis]} and {letter} of {letters} both lie on {axis}"
                raise ValueError(f"{clash}; rename one or set {axis}=1")
        # JAX compares layouts entry by entry: one axis must be written as its name, and none as None
        entries.append(axes if len(axes) > 1 else next(iter(axes), None))
    return PartitionSpec(*entries)


def named(
    mesh: jax.sharding.Mesh,
    letters: str,
    shape: tuple[int, ...] | None = None,
    *,
    at_rest: bool = False,
) -> NamedSharding:
    """`spec` bound to a mesh, for arrays that come from outside a jitted function."""
    # `spec` reads the current mesh, which outside of jit may be another one, or none
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return NamedSharding(mesh, spec(letters, shape, at_rest=at_rest))


def shard(x: jax.Array, letters: str, *, at_rest: bool = False) -> jax.Array:
    """Lay x out by its letters; this may move data."""
    return jax.sharding.reshard(x, spec(letters, x.shape, at_rest=at_rest))


def on_host(x: jax.Array) -> bool:
    """Whether an array of a traced function is in the memory of the host."""
    return jax.typeof(x).memory_space == jax.memory.Space.Host


@runtime_checkable
class Node(Protocol):
    """A weight of several arrays (model/weights.py), which knows its own products and layouts."""

    def product(self, equation: str, x: jax.Array, *, dtype: Any = None) -> jax.Array:
        """What `einsum` gives for x and the weight."""
        ...

    def rows(self, ids: jax.Array, letters: str) -> jax.Array:
        """What `look_up` gives for the weight as a table."""
        ...

    def map(self, change: Callable[[jax.Array, str], Any], letters: str) -> Any:
        """A node of what `change` makes of each array and its letters."""
        ...


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
        if _trimmed(actual) != _trimmed(wanted):
            raise ValueError(f"{where} lies as {actual}, not {wanted}; use shard(x, {letters!r})")
    layout = spec(output, tuple(sizes[letter] for letter in output.upper()))
    # a small letter is a layout of its capital: numpy's equation has capitals alone
    return jnp.einsum(
        equation.upper(), *operands, out_sharding=layout, preferred_element_type=dtype
    )


def _trimmed(layout: PartitionSpec) -> tuple[Any, ...]:
    """P("fsdp") and P("fsdp", None) are one layout of a matrix, and not equal in Python."""
    entries = list(layout.partitions)
    while entries and entries[-1] is None:
        entries.pop()
    return tuple(entries)


def look_up(table_VD: jax.Array | Node, ids: jax.Array, letters: str) -> jax.Array:
    """Rows of a table, laid out by `letters` (those of ids, then the table's last)."""
    if isinstance(table_VD, Node):
        return table_VD.rows(ids, letters)
    # a table on `tensor` has each row on one device: JAX asks where the result shall be
    return table_VD.at[ids].get(out_sharding=spec(letters, (*ids.shape, table_VD.shape[-1])))


def take_rows(x: jax.Array, rows_B: jax.Array, letters: str) -> jax.Array:
    """Rows of x, which has `letters`, along its B: some, several times, or in another order."""
    axis = letters.index("B")
    shape = (*x.shape[:axis], len(rows_B), *x.shape[axis + 1 :])
    rows = (slice(None),) * axis + (rows_B,)
    return x.at[rows].get(mode="clip", out_sharding=spec(letters, shape))


def reshape(x: jax.Array, shape: tuple[int, ...], letters: str) -> jax.Array:
    """Split or join dimensions; on explicit axes a reshape states its layout."""
    return jax.lax.reshape(x, shape, out_sharding=spec(letters, shape))


def zeros(letters: str, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Zeros laid out by their letters (`device=` would be ignored while tracing)."""
    return jnp.zeros(shape, dtype, out_sharding=spec(letters, shape))


def local(fn: Callable, in_letters: tuple[str, ...], out_letters: Any) -> Callable:
    """Run fn on each device's own block (fully manual): the exit for kernels and for library code that
    knows no explicit axes.

    `out_letters` are those of the result, or a tuple of them for several results.
    """
    if isinstance(out_letters, str):
        out_specs = spec(out_letters)
    else:
        out_specs = tuple(spec(letters) for letters in out_letters)

    def layout(operand: Any, letters: str) -> Any:
        if isinstance(operand, Node):
            return operand.map(lambda array, own_letters: spec(own_letters), letters)
        return spec(letters)

    def on_blocks(*operands: Any) -> Any:
        # the layout of a node has its structure, which only the operand tells
        in_specs = tuple(map(layout, operands, in_letters))
        # check_vma=False: over which axes a kernel's result varies is not what JAX can infer
        return jax.shard_map(fn, in_specs=in_specs, out_specs=out_specs, check_vma=False)(*operands)

    return on_blocks


def library(fn: Callable, out_letters: str, *, at_rest: bool = False) -> Callable:
    """Run fn under automatic axes: the exit for library code that multiplies or sorts without stating
    layouts.
    """
    return jax.sharding.auto_axes(fn, out_sharding=spec(out_letters, at_rest=at_rest))


def check_sizes(shapes: dict[str, tuple[int, ...]], mesh: jax.sharding.Mesh) -> list[str]:
    """One sentence for each parameter whose size does not divide over the mesh; names are dotted and end in
    letters.
    """
    problems = []
    for name, shape in shapes.items():
        letters = letters_of(name)
        entries = named(mesh, letters, shape, at_rest=True).spec
        for letter, size, entry in zip(letters, shape, entries, strict=True):
            axes = (entry,) if isinstance(entry, str) else entry or ()
            n = math.prod(mesh.shape[axis] for axis in axes)
            if size % n:
                what = f"{letter}={size} ({ALPHABET[letter].meaning}) of {name}"
                problems.append(
                    f"mesh {entry}={n} does not divide {what}; change the mesh or the size"
                )
    return problems
