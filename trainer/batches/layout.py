"""How the rows of a batch are laid out on a mesh, and which rows and positions this host reads."""

import dataclasses
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding

from data_pipeline.batch import fields_of
from data_pipeline.rows.packed import Row
from model.sharding import axes_of, n_parts, named


@dataclasses.dataclass(frozen=True)
class Layout:
    """The layout of batches of `batch_type` on `mesh`; `sizes` are those of their letters.

    Raises:
        ValueError: the number of rows, or their length, does not divide over the mesh.
    """

    batch_type: type
    sizes: dict[str, int]
    mesh: Mesh | AbstractMesh  # abstract: to check sizes alone
    micro_batches: int = 1

    def __post_init__(self) -> None:
        """Refuse sizes that do not divide, naming the config's fields."""
        # The abstract mesh is enough to count shards: `plan` makes layouts for devices that are not here.
        with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
            n_devices, n_context = n_parts("B"), n_parts("L")
            axes = " · ".join(axes_of("B"))
        # Every device must hold equally many rows of every micro-batch.
        multiple = n_devices * self.micro_batches
        if self.batch_size % multiple:
            split = f" in {self.micro_batches} micro-batches" if self.micro_batches > 1 else ""
            over = f"{axes} = {n_devices} devices{split}"
            rule = f"data.batch_size={self.batch_size} does not divide over {over}"
            raise ValueError(f"{rule}; choose a multiple of {multiple}")
        if self.sizes.get("L", 0) % n_context:
            rule = f"data.seq_len={self.sizes['L']} does not divide over mesh context={n_context}"
            raise ValueError(f"{rule}; choose a multiple of it")

    @property
    def batch_size(self) -> int:
        """Rows of the global batch."""
        return self.sizes["B"]

    @cached_property
    def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape, dtype and layout of every field; the mesh's devices need not exist here."""
        return {
            name: jax.ShapeDtypeStruct(
                field.shape(self.sizes), field.dtype, sharding=named(self.mesh, field.letters)
            )
            for name, field in fields_of(self.batch_type).items()
        }

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Rows of a batch that this host reads, ascending: all of which its devices hold any positions."""
        # A set: devices that differ only along other mesh axes hold the same rows.
        return tuple(sorted({i for start, stop in self._blocks("B") for i in range(start, stop)}))

    @cached_property
    def positions(self) -> slice:
        """Positions that this host reads of those rows."""
        # A batch without L has no positions to select: an empty slice.
        blocks = self._blocks("L") if "L" in self.sizes else [(0, 0)]
        return slice(min(start for start, _ in blocks), max(stop for _, stop in blocks))

    def _blocks(self, letter: str) -> list[tuple[int, int]]:
        """[start, stop) of a letter's shard on each device of this host."""
        sharding: NamedSharding = named(self.mesh, letter)
        size = self.sizes[letter]
        # addressable: of the devices of this process alone
        indices = sharding.addressable_devices_indices_map((size,)).values()
        return [index.indices(size)[:2] for (index,) in indices]

    def of_rows(self, n_rows: int) -> "Layout":
        """The same layout for batches of `n_rows` rows, without micro-batches.

        Raises:
            ValueError: they do not divide over the mesh.
        """
        return dataclasses.replace(self, sizes={**self.sizes, "B": n_rows}, micro_batches=1)

    def place(self, host_rows: Row) -> Any:
        """The global batch on the devices, from this host's rows, stacked in the order of `offsets`."""
        return self.batch_type(**{name: self._field(name, host_rows) for name in self.shapes})

    def _field(self, name: str, host_rows: Row) -> jax.Array:
        struct = self.shapes[name]
        letters = fields_of(self.batch_type)[name].letters
        values = host_rows[name.removesuffix(letters) + letters.replace("B", "")]
        # `block` is asked for indices of the global batch; `values` begins at this host's first row and
        # position.
        first_row = {offset: i for i, offset in enumerate(self.offsets)}

        def block(index: tuple[slice, ...]) -> np.ndarray:
            cut = []
            for letter, part, size in zip(letters, index, struct.shape, strict=True):
                start, stop, _ = part.indices(size)
                if letter == "B":
                    # a device's rows are contiguous in the batch, and so they are in `values`
                    cut.append(slice(first_row[start], first_row[stop - 1] + 1))
                elif letter == "L":
                    cut.append(slice(start - self.positions.start, stop - self.positions.start))
                else:
                    cut.append(slice(start, stop))
            return values[tuple(cut)]

        # The callback is called for the shards of this host's devices alone: no host holds the global batch.
        return jax.make_array_from_callback(
            struct.shape, struct.sharding, block, dtype=values.dtype
        )
