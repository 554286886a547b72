"""The verb `export`: a checkpoint → a folder that transformers, and what understands its format, can read."""

import argparse
from pathlib import Path
from typing import Any

from launch.verbs.arguments import add_import_argument, local_folder

MIB = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """PATH, where to, how large the files may be, and whether to compare with transformers."""
    parser.add_argument(
        "path",
        metavar="PATH",
        type=local_folder,
        help="folder of a run (its newest finished phase), a phase, or a checkpoint",
    )
    parser.add_argument(
        "--out", metavar="FOLDER", type=local_folder, required=True, help="the folder to make"
    )
    parser.add_argument(
        "--step", metavar="N", type=int, help="the checkpoint of this step (default: the newest)"
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="dtype of the weights (default: as the checkpoint has them)",
    )
    parser.add_argument(
        "--max-shard-mib",
        metavar="N",
        type=int,
        default=4096,
        help="MiB of the largest file of weights (default 4096)",
    )
    parser.add_argument(
        "--verify", action="store_true", help="compare our logits with those of transformers"
    )
    parser.add_argument(
        "--verify-python",
        metavar="PYTHON",
        help="a Python with torch and transformers (default: this one)",
    )
    add_import_argument(parser)


def main(args: argparse.Namespace) -> int:
    """Write the folder, print its size, and with --verify how it agrees with transformers."""
    import sys

    from launch.process.environment import prepare_process
    from launch.running.find import find_phase

    # First, so that a typo is reported before jax takes its seconds to start.
    phase, step = find_phase(args.path, args.step)
    if args.max_shard_mib < 1:
        raise ValueError(
            f"--max-shard-mib {args.max_shard_mib}: must be at least 1; a larger tensor has a file of its own"
        )
    prepare_process()
    import jax

    from launch.exchange.verify_logits import check_transformers, verify
    from launch.job.load import import_components
    from model.mesh import Mesh

    for module in args.imports:
        import_components(module)
    # torch may be installed in another environment than jax, since their pins often conflict.
    python = args.verify_python or sys.executable
    if args.verify:
        check_transformers(python)
    # A mesh over all devices, for models larger than one device's memory.
    with jax.set_mesh(Mesh().make()):
        architecture, params = export_phase(
            phase, step, args.out, dtype=args.dtype, max_shard_bytes=args.max_shard_mib * MIB
        )
        # What is on the disk, with the tokenizer and config.json.
        n_bytes = sum(path.stat().st_size for path in args.out.iterdir())
        print(f"  {type(architecture).__name__} -> {args.out} ({n_bytes / 1e6:,.1f} MB)")
        if args.verify:
            agreement = verify(architecture, params, args.out, python=python)
            print(f"  beside transformers: {agreement}")
            agreement.check(rounded=False)

    return 0


def export_phase(
    phase: Path, step: int | None, out: Path, *, dtype: str | None, max_shard_bytes: int
) -> tuple[Any, Any]:
    """Write a Hugging Face folder of a phase's checkpoint: (architecture, its parameters, rounded to `dtype`
    as they are in the folder). Call under `jax.set_mesh`.

    Raises:
        ValueError: the folder is there already, or the architecture has no name table.
    """
    import jax

    from data_pipeline.tokenizers.tokenizer import Tokenizer
    from launch.exchange.tokenizer_files import exported, token_ids
    from model.architecture import Exportable
    from model.hugging_face.save import rounded, save
    from trainer.checkpoints.load import load_params

    loaded = load_params(phase, step)
    # A user's own architecture may be without a name table, and train and decode all the same.
    if not isinstance(loaded.architecture, Exportable):
        name = type(loaded.architecture).__name__
        raise ValueError(
            f"{name} has no name table; give it `tensors` and `to_hugging_face` to export it"
        )

    # All weights of a checkpoint have one dtype, so the first leaf's is that of all.
    stored = dtype or str(jax.tree.leaves(loaded.params)[0].dtype)
    # A model that was imported without a tokenizer is exported without one.
    files, ids = {}, {}
    if loaded.tokenizer.is_file():
        files = exported(loaded.tokenizer)
        ids = token_ids(Tokenizer(loaded.tokenizer))
    save(
        loaded.architecture,
        loaded.params,
        out,
        dtype=stored,
        max_shard_bytes=max_shard_bytes,
        files=files,
        token_ids=ids,
    )

    return loaded.architecture, rounded(loaded.architecture, loaded.params, dtype=stored)
