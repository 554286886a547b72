"""A data phase from raw HTML to shards, run in processes of its own and watched from outside."""

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from launch.bench.data.process_tree import Watch
from launch.bench.data.sample import Sample

# In a process of its own, so that the imports and the memory of this one do not count.
CHILD = """
import sys
from launch.bench.data.end_to_end import prepare
prepare(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
"""


class Whole(NamedTuple):
    """One run: bytes of HTML, time, memory, and bytes on the disk by stage."""

    workers: int
    raw_bytes: int
    wall_s: float
    cpu_s: float
    peak_bytes: int
    stored_bytes: dict[str, int]


def whole(taken: Sample, folder: Path, *, workers: int, n_files: int | None) -> Whole:
    """Run the data phase on the first `n_files` WARC files (None = all).

    Raises:
        RuntimeError: it failed; from few pages the recipe may keep none.
    """
    out = folder / "whole"
    files = taken.files[:n_files]
    shutil.rmtree(out, ignore_errors=True)
    start = time.perf_counter()
    command = [sys.executable, "-c", CHILD, str(out), str(workers), *map(str, files)]
    # stderr is read for the reason of a failure.
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    # The workers are children of the child.
    watch = Watch(child.pid)
    _, errors = child.communicate()
    wall_s = time.perf_counter() - start
    cpu_s = watch.stop()
    if child.returncode:
        raise RuntimeError(f"the data phase failed: {errors.strip().splitlines()[-1]}")
    n_all = len(taken.files)  # file i holds the pages i, i + n_all, …
    raw_bytes = sum(len(page.data) for i in range(len(files)) for page in taken.pages[i::n_all])

    return Whole(workers, raw_bytes, wall_s, cpu_s, watch.peak_bytes, sizes(out))


def sizes(out: Path) -> dict[str, int]:
    """Bytes of each stage's files, and of the shards."""
    folders = [
        *sorted(folder for folder in (out / "stages").iterdir() if folder.is_dir()),
        out / "train",
    ]
    return {
        folder.name: sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        for folder in folders
    }


def prepare(out: str, workers: int, files: list[str]) -> None:
    """The data phase as a config would describe it."""
    from data_pipeline.clean.held_out import HeldOutFilter
    from data_pipeline.clean.recipe import web_recipe
    from data_pipeline.component import FrozenMap
    from data_pipeline.engine.runner import Engine
    from data_pipeline.prepare import Prepare
    from data_pipeline.readers.warc import Warc
    from data_pipeline.tokenizers.tokenizer import SentencePiece

    # A small vocabulary and sample: training a tokenizer is not what is measured.
    phase = Prepare(
        sources=FrozenMap(web=Warc(paths=tuple(files))),
        recipe=web_recipe(sources=("web",)),
        # A tenth, so that the held-out stage has work to do.
        held_out_frac=0.1,
        held_out_filter=HeldOutFilter(jaccard=0.7, common_groups=8),
        tokenizer=SentencePiece(vocab_size=2048, model="bpe", sample_mib=1),
        seed=0,
        engine=Engine(workers=workers),
    )
    phase.execute(Path(out), job_folder=Path(out))
