"""One row of a name table: how a parameter of ours stands in a Hugging Face checkpoint, said in letters."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

Ranges = Mapping[str, tuple[int, int]]  # letter -> (start, stop) along it


class Tensor(NamedTuple):
    """`ours` is a dotted parameter name, `theirs` a tensor's name, where `{N}` and `{E}` run over layers
    and experts.

    Attributes:
        layout: Their dimensions in the letters of ours, in their order: `"HA D"` has two, the first of
        which joins heads and head width.
            The letters that `theirs` runs over are left out.
        first: What `{N}` begins with: the first layer of a later stack.
        part: (i, n): ours is part i of n equal parts of their fused dimension. That is the first one, or
        the one marked `*`: `"D *HA"`.
        span: (letter, start, size): along this letter theirs has `size` entries, and ours are those from
        `start` on.
        interleaved: Theirs stores rotary pairs alternately (x0 x1 of a pair are neighbours), ours in
        halves. True: the whole width of a
            head (letter A); a number: its last so many entries.
    """

    ours: str
    theirs: str
    layout: str
    first: int = 0
    part: tuple[int, int] | None = None
    span: tuple[str, int, int] | None = None
    interleaved: bool | int = False


def letters(text: str) -> tuple[str, ...]:
    """`NDHA2` -> N, D, H, A2."""
    return tuple(re.findall(r"[A-Z][0-9]*", text))


def own_letters(row: Tensor) -> tuple[str, ...]:
    """The letters at the end of our name."""
    return letters(row.ours.rsplit("_", 1)[1])


def run_letters(row: Tensor) -> tuple[str, ...]:
    """Those of N and E that their name runs over; in ours they come first."""
    return tuple(letter for letter in own_letters(row) if f"{{{letter}}}" in row.theirs)


def places(row: Tensor, sizes: Mapping[str, int]) -> Iterator[tuple[tuple[int, ...], str]]:
    """(index along the run letters, their name) of every tensor that our parameter is made of."""
    run = run_letters(row)
    for at in np.ndindex(*(sizes[letter] for letter in run)):
        found = dict(zip(run, at, strict=True))
        if "N" in found:
            found["N"] += row.first
        yield at, row.theirs.format(**found)


class Dimension(NamedTuple):
    """One dimension of theirs: its letters, their sizes, and which entries along each are ours; "" is the
    index of a part.
    """

    letters: tuple[str, ...]
    sizes: tuple[int, ...]
    ours: tuple[tuple[int, int], ...]

    @property
    def size(self) -> int:
        """Its length."""
        return math.prod(self.sizes)


def dimensions(row: Tensor, sizes: Mapping[str, int], ranges: Ranges | None = None) -> tuple[Dimension, ...]:
    """Their dimensions; `sizes` are those of our letters, `ranges` what is wanted of them (default: all)."""
    groups = row.layout.split()
    fused = next((i for i, group in enumerate(groups) if group.startswith("*")), 0)
    found = []
    for i, group in enumerate(groups):
        entries = [(letter, *_along(row, letter, sizes, ranges or {})) for letter in letters(group)]
        if row.part and i == fused:
            entries.insert(0, ("", row.part[1], (row.part[0], row.part[0] + 1)))
        found.append(Dimension(*zip(*entries, strict=True)))
    return tuple(found)


def _along(row: Tensor, letter: str, sizes: Mapping[str, int], ranges: Ranges) -> tuple[int, tuple[int, int]]:
    """(their size, what is wanted of it) along one letter."""
    start, stop = ranges.get(letter, (0, sizes[letter]))
    if row.span and row.span[0] == letter:
        return row.span[2], (start + row.span[1], stop + row.span[1])
    return sizes[letter], (start, stop)


def their_shape(row: Tensor, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The shape of each of their tensors."""
    return tuple(dimension.size for dimension in dimensions(row, sizes))


def extent(dimension: Dimension) -> tuple[slice, tuple[int, ...], tuple[slice, ...]]:
    """What to read along one dimension, how that splits into the letters, and what of each is wanted.

    Read is one stretch: exactly what is wanted where that is contiguous, else the whole dimension.
    """
    lengths = tuple(stop - start for start, stop in dimension.ours)
    last = max(
        (i for i, (n, size) in enumerate(zip(lengths, dimension.sizes, strict=True)) if n < size), default=0
    )
    if any(n > 1 for n in lengths[:last]):
        return slice(0, dimension.size), dimension.sizes, tuple(slice(*one) for one in dimension.ours)
    strides = [math.prod(dimension.sizes[i + 1 :]) for i in range(len(dimension.sizes))]
    begin = sum(start * stride for (start, _), stride in zip(dimension.ours, strides, strict=True))
    return slice(begin, begin + math.prod(lengths)), lengths, tuple(slice(0, n) for n in lengths)


def take(theirs: Any, row: Tensor, sizes: Mapping[str, int], ranges: Ranges) -> np.ndarray:
    """What `ranges` of our letters (those not run over) find in one of their tensors, in our order; reads
    no more than it needs.

    `theirs` is anything that gives an array when it is sliced.
    """
    wanted = dimensions(row, sizes, ranges)
    reads, lengths, cuts = zip(*map(extent, wanted), strict=True)
    x = theirs[reads].reshape([n for part in lengths for n in part])[
        tuple(cut for part in cuts for cut in part)
    ]
    return _in_halves(_to_our_order(x, row, wanted), row)


def put(theirs: np.ndarray, row: Tensor, sizes: Mapping[str, int], ours: np.ndarray) -> None:
    """Write one of our pieces into its place in one of their tensors: the inverse of `take` for whole
    pieces.
    """
    wanted = dimensions(row, sizes)
    view = theirs.reshape([size for dimension in wanted for size in dimension.sizes])
    view = view[tuple(slice(*mine) for dimension in wanted for mine in dimension.ours)]
    _to_our_order(view, row, wanted)[...] = _alternating(ours, row)


def _to_our_order(x: np.ndarray, row: Tensor, wanted: tuple[Dimension, ...]) -> np.ndarray:
    """Dimensions by their letters -> by ours, without the index of a part; a view."""
    order = [letter for dimension in wanted for letter in dimension.letters]
    x = x.squeeze(tuple(i for i, letter in enumerate(order) if not letter))
    order = [letter for letter in order if letter]
    rest = [letter for letter in own_letters(row) if letter not in run_letters(row)]
    return x.transpose([order.index(letter) for letter in rest])


def _turned(row: Tensor, x: np.ndarray) -> tuple[int, int] | None:
    """(axis, number of entries at its end) that hold rotary pairs; None where nothing is interleaved."""
    if row.interleaved is False:
        return None
    rest = [letter for letter in own_letters(row) if letter not in run_letters(row)]
    axis = next(i for i, letter in enumerate(rest) if letter[0] == "A")
    return axis, x.shape[axis] if row.interleaved is True else row.interleaved


def _in_halves(x: np.ndarray, row: Tensor) -> np.ndarray:
    return _permuted(x, row, lambda n: np.arange(n).reshape(n // 2, 2).T.ravel())


def _alternating(x: np.ndarray, row: Tensor) -> np.ndarray:
    return _permuted(x, row, lambda n: np.arange(n).reshape(2, n // 2).T.ravel())


def _permuted(x: np.ndarray, row: Tensor, order_of: Callable[[int], np.ndarray]) -> np.ndarray:
    turned = _turned(row, x)
    if turned is None:
        return x
    axis, n = turned
    before = x.shape[axis] - n
    return x.take(np.concatenate([np.arange(before), before + order_of(n)]), axis)
