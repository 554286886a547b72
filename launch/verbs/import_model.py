"""The verb `import`: a Hugging Face folder or a GGUF file → a phase that can be trained on, generated from
and exported.
"""

import argparse

from launch.verbs.arguments import local_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """PATH, where to, in which precision, and whether to compare with transformers."""
    parser.add_argument(
        "path",
        metavar="PATH",
        type=local_folder,
        help="folder with config.json and safetensors, or a .gguf file of a llama model",
    )
    parser.add_argument(
        "--dir",
        type=local_folder,
        required=True,
        help="folder of the new phase, such as runs/x/imported",
    )
    parser.add_argument(
        "--params",
        choices=("float32", "bfloat16"),
        default="float32",
        help="dtype of the weights (default float32, which loses nothing)",
    )
    parser.add_argument(
        "--verify", action="store_true", help="compare our logits with those of transformers"
    )
    parser.add_argument(
        "--verify-python",
        metavar="PYTHON",
        help="a Python with torch and transformers (default: this one)",
    )


def main(args: argparse.Namespace) -> int:
    """Write the phase, print its size, and with --verify how it agrees with transformers."""
    import sys

    from launch.process.environment import prepare_process

    prepare_process()
    import jax

    from launch.exchange.hugging_face import import_source, open_source
    from launch.exchange.verify_logits import check_transformers, verify
    from launch.process.children import typed_command
    from model.execution import Precision
    from model.mesh import Mesh
    from model.size import n_params

    # Checked before the import, which may take minutes for a large model.
    python = args.verify_python or sys.executable
    if args.verify:
        check_transformers(python)

    # Before a device is touched, because most mistakes are in the path.
    source = open_source(args.path)
    with jax.set_mesh(Mesh().make()):
        architecture, params = import_source(
            source,
            args.dir,
            precision=Precision(params=args.params),
            say=print,
        )
        model = f"{type(architecture).__name__} of {n_params(params):,} parameters"
        print(f"  {model} -> {args.dir / 'checkpoints' / '0'}")
        if args.verify:
            agreement = verify(architecture, params, args.path, python=python)
            print(f"  beside transformers: {agreement}")
            agreement.check(rounded=args.params != "float32")
    # the command that people type next
    print(typed_command(["generate", args.dir, "--prompt", "…"]))

    return 0
