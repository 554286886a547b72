"""A name such as `v5p:4x4x4` → the chips that it names, and devices for the compiler; this machine needs none
of them.
"""

import importlib.util
import math
import re
from typing import Any, NamedTuple

from launch.job.problems import nearest
from launch.planning.chips import ALIASES, CHIPS, Chip
from model.mesh import Mesh

HOST = (2, 2, 1)  # chips of one host; a single chip is a host too
EXAMPLES = {0: "64", 2: "4x4", 3: "2x2x4"}  # by dimensions of the torus
CORES_A_CHIP = {"v4": 2, "v5p": 2}  # accelerator types such as v5p-128 count cores, not chips


class Target(NamedTuple):
    """`n_slices` equal slices of chips, each a torus `shape` (of GPUs: their number); the data-centre
    network lies between slices.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]
    n_slices: int

    @property
    def n_chips(self) -> int:
        """Chips of all slices together."""
        return math.prod(self.shape) * self.n_slices

    @property
    def rings(self) -> tuple[bool, ...]:
        """Which axes of the torus close to a ring."""
        closed = [size % self.chip.wrap == 0 for size in self.shape]
        # The axes of a v5e or v6e close one by one, those of a v4 or v5p all together: a slice
        # must consist of whole cubes of 4 x 4 x 4 chips.
        return tuple(closed) if self.chip.n_dims == 2 else (all(closed),) * len(closed)

    def describe(self) -> str:
        """The target in words: `v5p:4x4x4, 64 chips`."""
        slices = f"{self.n_slices} slices of " if self.n_slices > 1 else ""
        return f"{slices}{self.name}, {self.n_chips} {'chips' if self.chip.platform == 'tpu' else 'GPUs'}"


def target_of(name: str, n_slices: int = 1) -> Target:
    """What `--topology NAME --slices N` means.

    Raises:
        ValueError: there is no such chip, or no such slice of it.
    """
    # `v5p:4x4x8`, or an accelerator type such as `v5p-128`, which is refused below with a remedy.
    match = re.fullmatch(r"([a-z]+\d*[a-z]*)(?::(\d+(?:x\d+)*)|-(\d+))", name.lower())
    kind = ALIASES.get(match[1], match[1]) if match else name.lower().split(":")[0]
    if kind not in CHIPS:
        known = nearest(kind, list(CHIPS))
        remedy = f"nearest: {', '.join(known)}; write e.g. v5p:4x4x4, v5e:16x16 or h100:64"
        raise ValueError(f"--topology {name}: no such chip; {remedy}")
    chip = CHIPS[kind]
    # Neither a bare chip nor an accelerator type tells the shape of the torus.
    if match is None or match[2] is None:
        example = f"{chip.name}:{EXAMPLES[chip.n_dims]}"
        counted = (
            f" in cores, {CORES_A_CHIP[kind]} a chip" if match and kind in CORES_A_CHIP else ""
        )
        rule = f"the shape of a slice must be given, not its size{counted}"
        raise ValueError(f"--topology {name}: {rule}; write e.g. {example}")
    if n_slices < 1:
        raise ValueError(f"--slices {n_slices}: must be at least 1; raise it")
    shape = tuple(int(size) for size in match[2].split("x"))
    if problem := _shape_problem(chip, shape):
        raise ValueError(f"--topology {name}: {problem}")
    if chip.platform == "gpu" and n_slices > 1:
        remedy = f"give their whole number, {chip.name}:{shape[0] * n_slices}"
        raise ValueError(f"--slices {n_slices}: GPUs have no slices; {remedy}")

    return Target(f"{chip.name}:{match[2]}", chip, shape, n_slices)


def _shape_problem(chip: Chip, shape: tuple[int, ...]) -> str | None:
    """What is wrong with a slice of this shape, with the remedy."""
    # The shape of GPUs is their number alone.
    if len(shape) != (chip.n_dims or 1):
        example = f"{chip.name}:{EXAMPLES[chip.n_dims]}"
        return f"a {chip.name} has {len(shape)} sizes here and needs {chip.n_dims or 1}; write e.g. {example}"
    if 0 in shape:
        return "a size is 0; raise it"
    if chip.platform == "gpu":
        return None
    # strict=False, because a two-dimensional torus has no third size.
    divides = all(size % part == 0 for size, part in zip(shape, HOST, strict=False))
    if math.prod(shape) > 1 and not divides:
        return f"the first two sizes must be even, since a host has {HOST[0]}x{HOST[1]} chips; round them"
    if math.prod(shape) > chip.island:
        limit = f"the {chip.island} of a {chip.name} pod"
        return f"{math.prod(shape)} chips are more than {limit}; use --slices for several pods"

    return None


def load_devices(target: Target) -> list[Any]:
    """The devices of a TPU target, as libtpu describes them to a machine that has none.

    Raises:
        ValueError: libtpu is not installed, or does not know the slice.
    """
    if importlib.util.find_spec("libtpu") is None:
        problem = "libtpu, the compiler for TPUs, is not installed here"
        raise ValueError(f"--topology {target.name}: {problem}; install meshwright[tpu]")
    # Imported here, because a plan for GPUs does not need them.
    from jax.errors import JaxRuntimeError
    from jax.experimental import topologies

    settings: dict[str, Any] = {}
    if target.chip.name == "v4":
        settings["chip_config_name"] = "megacore"  # else each of a chip's two cores is a device
    if target.n_slices > 1:
        settings["num_slices"] = target.n_slices
    try:
        topology = topologies.get_topology_desc(
            platform="tpu", topology_name=target.name, **settings
        )
    except JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"--topology {target.name}: libtpu refuses it ({reason}); choose another shape"
        ) from None

    return list(topology.devices)


def axis_sizes(mesh: Mesh, target: Target) -> dict[str, int]:
    """The size of every axis of a Run's mesh on a target, -1 filled in.

    Raises:
        ValueError: the sizes do not multiply to the target's chips, or `data` does not divide over the
        slices.
    """
    sizes = mesh.sizes()
    # One axis may be -1, which stands for the chips that the others leave.
    fixed = math.prod(size for size in sizes.values() if size > 0)
    open_axes = [axis for axis, size in sizes.items() if size == -1]
    if len(open_axes) == 1 and target.n_chips % fixed == 0:
        sizes[open_axes[0]] = target.n_chips // fixed
    if -1 in sizes.values() or math.prod(sizes.values()) != target.n_chips:
        shown = ", ".join(f"{axis}={size}" for axis, size in sizes.items() if size != 1) or "data=1"
        rule = f"does not divide the {target.n_chips} chips of {target.describe()}"
        raise ValueError(
            f"mesh ({shown}) {rule}; set the sizes so that their product is that number"
        )
    # Only `data` runs over several slices, so it must be a multiple of their number.
    if sizes["data"] % target.n_slices:
        wanted = target.n_slices * max(sizes["data"] // target.n_slices, 1)
        rule = f"does not divide over --slices {target.n_slices}, whose network is the outer part of data"
        raise ValueError(f"mesh data={sizes['data']} {rule}; set mesh.data={wanted}")

    return sizes
