"""Rows of a name table: how a parameter of ours is stored in a Hugging Face checkpoint, in letters."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

Sizes = Mapping[str, int]  # letter → size
Range = tuple[int, int]  # (start, stop)
Ranges = Mapping[str, Range]  # letter → what is wanted along it


class Tensor(NamedTuple):
    """`ours` is a dotted parameter name, `theirs` a tensor's name, where `{N}` and `{E}` run over layers
    and experts.

    Attributes:
        layout: Their dimensions, in their order, written in our letters: `"HA D"` has two, the first of which
            joins heads and head width. Letters that `theirs` runs over are left out.
        first: Where `{N}` starts: the number of the first layer of a later stack.
        part: (i, n): ours is part i of n equal parts of their fused dimension, which is the first one, or the
            one marked `*`: `"D *HA"`.
        span: (letter, start, size): along this letter theirs has `size` entries, and ours are those from
            `start` on.
        interleaved: Theirs stores the two entries of a rotary pair as neighbours, ours in halves. True: over
            the whole width of a head (letter A); a number: over its last so many entries.
    """

    ours: str
    theirs: str
    layout: str
    first: int = 0
    part: tuple[int, int] | None = None
    span: tuple[str, int, int] | None = None
    interleaved: bool | int = False


class Dimension(NamedTuple):
    """One dimension of theirs: its letters, their sizes, and the range of ours along each. The letter "" is
    the index of a part.
    """

    letters: tuple[str, ...]
    sizes: tuple[int, ...]
    ours: tuple[Range, ...]

    @property
    def size(self) -> int:
        """The length of the dimension, the product of its letters' sizes."""
        return math.prod(self.sizes)


def letters(text: str) -> tuple[str, ...]:
    """`NDHA2` → N, D, H, A2."""
    return tuple(re.findall(r"[A-Z][0-9]*", text))


def own_letters(row: Tensor) -> tuple[str, ...]:
    """The letters at the end of our name."""
    return letters(row.ours.rsplit("_", 1)[1])


def run_letters(row: Tensor) -> tuple[str, ...]:
    """The letters, among N and E, that their name runs over; in ours they come first."""
    return tuple(letter for letter in own_letters(row) if f"{{{letter}}}" in row.theirs)


def stored_letters(row: Tensor) -> tuple[str, ...]:
    """The letters of ours that each of their tensors has, in our order."""
    run = run_letters(row)
    return tuple(letter for letter in own_letters(row) if letter not in run)


def places(row: Tensor, sizes: Sizes) -> Iterator[tuple[tuple[int, ...], str]]:
    """(index along the run letters, their name) of every tensor that our parameter is made of."""
    run = run_letters(row)
    # np.ndindex() gives a single empty index, for tensors outside the layers
    for index in np.ndindex(*(sizes[letter] for letter in run)):
        numbers = dict(zip(run, index, strict=True))
        if "N" in numbers:
            numbers["N"] += row.first
        yield index, row.theirs.format(**numbers)


def dimensions(
    row: Tensor,
    sizes: Sizes,
    ranges: Ranges | None = None,
) -> tuple[Dimension, ...]:
    """Their dimensions; `sizes` are those of our letters, `ranges` what is wanted of them (default: all)."""
    groups = row.layout.split()
    # the fused dimension is the one marked with *, or the first
    fused = next((i for i, group in enumerate(groups) if group.startswith("*")), 0)
    result = []
    for i, group in enumerate(groups):
        entries = [(letter, *_along(row, letter, sizes, ranges or {})) for letter in letters(group)]
        if row.part and i == fused:
            # parts are stored one after the other, so their index is the slowest letter of the dimension
            index, n_parts = row.part
            entries.insert(0, ("", n_parts, (index, index + 1)))
        result.append(Dimension(*zip(*entries, strict=True)))
    return tuple(result)


def _along(
    row: Tensor,
    letter: str,
    sizes: Sizes,
    ranges: Ranges,
) -> tuple[int, Range]:
    """(their size, range of it that is wanted) along one letter."""
    start, stop = ranges.get(letter, (0, sizes[letter]))
    if row.span and row.span[0] == letter:
        _, offset, their_size = row.span
        return their_size, (start + offset, stop + offset)
    return sizes[letter], (start, stop)


def their_shape(row: Tensor, sizes: Sizes) -> tuple[int, ...]:
    """The shape of each of their tensors."""
    return tuple(dimension.size for dimension in dimensions(row, sizes))


def extent(dimension: Dimension) -> tuple[slice, tuple[int, ...], tuple[slice, ...]]:
    """(the slice to read along a dimension, its size along each letter, the slice wanted of each letter).

    What is wanted is read exactly if it is contiguous; otherwise the whole dimension is read.
    """
    lengths = tuple(stop - start for start, stop in dimension.ours)
    cut_letters = [i for i, size in enumerate(dimension.sizes) if lengths[i] < size]
    last_cut = max(cut_letters, default=0)
    # Contiguous: a single entry of each letter before the last one of which only a range is wanted; of the
    # letters after that one all entries are wanted.
    if any(n > 1 for n in lengths[:last_cut]):
        wanted = tuple(slice(start, stop) for start, stop in dimension.ours)
        return slice(0, dimension.size), dimension.sizes, wanted
    begin = 0
    for (start, _), size in zip(dimension.ours, dimension.sizes, strict=True):
        # the row-major index of the first wanted entry
        begin = begin * size + start
    all_of_it = tuple(slice(0, n) for n in lengths)
    return slice(begin, begin + math.prod(lengths)), lengths, all_of_it


def take(theirs: Any, row: Tensor, sizes: Sizes, ranges: Ranges) -> np.ndarray:
    """The part of one of their tensors that `ranges` of our stored letters select, in our order.

    `theirs` is anything that gives an array when it is sliced; as little as possible is read.
    """
    wanted = dimensions(row, sizes, ranges)
    # safetensors supports one slice per dimension: what is not contiguous is selected in memory
    reads, lengths, cuts = zip(*map(extent, wanted), strict=True)
    by_letter = theirs[reads].reshape([n for dimension in lengths for n in dimension])
    x = by_letter[tuple(cut for dimension in cuts for cut in dimension)]
    return _permuted(_to_our_order(x, row, wanted), row, _halves)


def put(theirs: np.ndarray, row: Tensor, sizes: Sizes, ours: np.ndarray) -> None:
    """Write our parameter (of a layer or expert) into one of their tensors: the inverse of `take` without
    ranges.
    """
    wanted = dimensions(row, sizes)
    # reshaping a contiguous array gives a view, so writing to it writes to `theirs`
    view = theirs.reshape([size for dimension in wanted for size in dimension.sizes])
    view = view[tuple(slice(*entries) for dimension in wanted for entries in dimension.ours)]
    _to_our_order(view, row, wanted)[...] = _permuted(ours, row, _alternating)


def _to_our_order(
    x: np.ndarray,
    row: Tensor,
    wanted: tuple[Dimension, ...],
) -> np.ndarray:
    """A view with dimensions in the order of our letters, without the index of a part."""
    order = [letter for dimension in wanted for letter in dimension.letters]
    # a part is a single entry of its index: a dimension of length 1
    x = x.squeeze(tuple(i for i, letter in enumerate(order) if not letter))
    order = [letter for letter in order if letter]
    return x.transpose([order.index(letter) for letter in stored_letters(row)])


def _permuted(
    x: np.ndarray,
    row: Tensor,
    order_of: Callable[[int], np.ndarray],
) -> np.ndarray:
    """x with the entries of rotary pairs reordered, or x itself if theirs stores them like ours."""
    if row.interleaved is False:
        return x
    axis = next(i for i, letter in enumerate(stored_letters(row)) if letter[0] == "A")
    # entries before the rotated ones stay where they are
    n_rotated = x.shape[axis] if row.interleaved is True else row.interleaved
    n_before = x.shape[axis] - n_rotated
    order = np.concatenate([np.arange(n_before), n_before + order_of(n_rotated)])
    return x.take(order, axis)


def _halves(n: int) -> np.ndarray:
    """0 2 4 … 1 3 5 …: takes alternating pairs into halves."""
    return np.arange(n).reshape(n // 2, 2).T.ravel()


def _alternating(n: int) -> np.ndarray:
    """0 n/2 1 n/2+1 …: takes halves into alternating pairs."""
    return np.arange(n).reshape(2, n // 2).T.ravel()
