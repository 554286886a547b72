"""Arrays of any length in .npy files: written piece by piece, read through the page cache, never whole in
memory.
"""

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from data_pipeline.files import partial_file, writing


@contextmanager
def new_array(
    path: Path, dtype: Any, row_shape: tuple[int, ...] = ()
) -> Iterator[Callable[[np.ndarray], None]]:
    """Yield a function that appends rows; `path` appears, or is replaced, when the block ends well.

    Several processes, and threads of one, may write it at once, as long as they write the same.

    Raises:
        OutputError: the disk is full or read-only.
    """
    n_rows = 0
    with partial_file(path, writer=uuid.uuid4().hex) as partial:
        with writing(path):
            file = partial.open("wb")

        def append(rows: np.ndarray) -> None:
            nonlocal n_rows
            with writing(path):
                # tofile writes the numbers only; np.save would put a header before every piece.
                np.ascontiguousarray(rows, dtype).tofile(file)
            n_rows += len(rows)

        with file:
            with writing(path):
                # The header has its final size already; the number of rows is filled in at the end.
                _write_header(file, dtype, (0, *row_shape))
                file.flush()  # `tofile` writes past Python's buffer: the header must be there before
            yield append
            with writing(path):
                # only now is it known how many rows there are
                file.seek(0)
                _write_header(file, dtype, (n_rows, *row_shape))
                file.flush()
                os.fsync(file.fileno())


def _write_header(file: BinaryIO, dtype: Any, shape: tuple[int, ...]) -> None:
    """NumPy leaves room in a header for the first dimension to grow, so it may be written again in place."""
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    np.lib.format.write_array_header_1_0(
        file, {"descr": descr, "fortran_order": False, "shape": shape}
    )


def read_array(path: Path) -> np.ndarray:
    """The array in a file, mapped, not read.

    Raises:
        ValueError, EOFError, FileNotFoundError: the file is none, or is cut short.
    """
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    return mapped.view(np.ndarray)  # the subclass makes every slice microseconds slower
