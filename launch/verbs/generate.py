"""The verb `generate`: text from a checkpoint of a run."""

import argparse
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from launch.running.find import WHERE, find_phase
from launch.verbs.arguments import add_import_argument, local_folder

if TYPE_CHECKING:  # these import jax, and verbs are parsed without it
    from inference.generating import SamplingRule
    from inference.text import Loaded


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """PATH, prompts, and how tokens are chosen."""
    parser.add_argument("path", metavar="PATH", type=local_folder, help=f"the folder of {WHERE}")
    parser.add_argument(
        "--prompt",
        metavar="TEXT",
        action="append",
        help="text to continue; may be repeated (default: each line of standard input)",
    )
    parser.add_argument(
        "--chat",
        action="store_true",
        help="take the prompt as a user's message, and write the assistant's answer",
    )
    parser.add_argument(
        "--max-tokens",
        metavar="N",
        type=int,
        default=128,
        help="most tokens of a text (default 128)",
    )
    parser.add_argument(
        "--temperature",
        metavar="T",
        type=float,
        default=0.0,
        help="0 (default): always the likeliest token; above 0: sample",
    )
    parser.add_argument(
        "--top-k", metavar="K", type=int, help="sample among the K likeliest tokens"
    )
    parser.add_argument(
        "--top-p",
        metavar="P",
        type=float,
        help="sample among the likeliest tokens that together have probability P",
    )
    parser.add_argument(
        "--seed", metavar="S", type=int, default=0, help="seed of the sampling (default 0)"
    )
    parser.add_argument(
        "--step", metavar="N", type=int, help="the checkpoint of this step (default: the newest)"
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print an object a prompt, with `prompt` and `text`, once the text is complete",
    )
    add_import_argument(parser)


def main(args: argparse.Namespace) -> int:
    """Write the texts to standard output, each as it grows."""
    from launch.process.environment import prepare_process

    folder, step = find_phase(args.path, args.step)
    # Of a larger seed jax.random.key would silently take the lower 32 bits.
    if not 0 <= args.seed < 2**32:
        raise ValueError(f"--seed {args.seed}: must be from 0 to 4294967295; choose another")
    prepare_process()
    import jax

    from inference.text import writer
    from launch.job.load import import_components
    from model.mesh import Mesh

    # Before the checkpoint is read, whose architecture may be one of the user's own.
    for module in args.imports:
        import_components(module)
    sampler = sampler_of(args.temperature, args.top_k, args.top_p)
    # A generator: each line is answered when it comes, so that a person can type them.
    prompts = args.prompt or lines_of(sys.stdin)
    # By default TPUs and recent GPUs round the factors of float32 products to bfloat16 or TF32.
    with jax.set_mesh(Mesh().make()), jax.default_matmul_precision("float32"):
        write = writer(
            load(folder, step),
            sampler=sampler,
            max_tokens=args.max_tokens,
            as_chat=args.chat,
            key=jax.random.key(args.seed),
        )
        for number, prompt in enumerate(map(readable, prompts)):
            if args.json:
                row = {"prompt": prompt, "text": "".join(write(number, prompt))}
                print(json.dumps(row, ensure_ascii=False), flush=True)
                continue
            # With --chat only the answer is shown; else the text continues the prompt.
            between_texts = "\n" if number else ""  # an empty line
            print(between_texts if args.chat else between_texts + prompt, end="", flush=True)
            # Flushed after every piece: a terminal is buffered by lines, a pipe by blocks.
            for piece in write(number, prompt):
                print(piece, end="", flush=True)
            print(flush=True)

    return 0


def lines_of(stream: io.TextIOBase) -> Iterator[str]:
    """The lines of standard input, without their ends."""
    if stream.isatty():
        # Otherwise a command that waits looks like one that hangs.
        print("Type a prompt a line; Ctrl-D ends.", file=sys.stderr, flush=True)
    if isinstance(stream, io.TextIOWrapper):
        # Whatever the terminal's character set is; `readable` refuses what is no UTF-8.
        stream.reconfigure(encoding="utf-8", errors="surrogateescape")
    for line in stream:
        yield line.rstrip("\r\n")


def readable(prompt: str) -> str:
    """The prompt, which is text.

    Raises:
        ValueError: it holds bytes that are no UTF-8, which Python hands on as lone surrogates.
    """
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        shown = prompt.encode(errors="replace").decode()
        problem = f"character {error.start + 1} of the prompt {shown!r} is not UTF-8"
        raise ValueError(f"{problem}; give the text in UTF-8") from None
    return prompt


def load(folder: Path, step: int | None) -> "Loaded":
    """A phase's model with its tokenizer. It computes in float32, whatever the training did, so that rounding
    does not let the cache, the batch or the mesh decide which token is likeliest.
    """
    from data_pipeline.tokenizers.tokenizer import Tokenizer
    from inference.text import Loaded
    from model.execution import Precision
    from trainer.checkpoints.load import load_params

    saved = load_params(folder, step)
    model = saved.architecture.build(Precision(compute="float32"))
    return Loaded(model, saved.params, Tokenizer(saved.tokenizer), saved.architecture.context)


def sampler_of(temperature: float, top_k: int | None, top_p: float | None) -> "SamplingRule":
    """The sampling rule of the three options.

    Raises:
        ValueError: a value is wrong, or top-k or top-p stands beside temperature 0.
    """
    from pydantic import ValidationError

    from inference.sample import Greedy, Sampler

    # Logits are divided by the temperature; as it goes to 0, sampling becomes arg max: `Greedy`.
    if temperature == 0:
        if top_k is not None or top_p is not None:
            what = (
                "--top-k and --top-p choose among sampled tokens, and --temperature 0 samples none"
            )
            raise ValueError(f"{what}; set --temperature above 0")
        return Greedy()
    try:
        return Sampler(temperature=temperature, top_k=top_k, top_p=top_p)
    except ValidationError as error:
        # pydantic names fields with underscores; a person typed the option with hyphens.
        wrong = [
            f"--{str(detail['loc'][0]).replace('_', '-')} {detail['input']}: {detail['msg']}"
            for detail in error.errors()
        ]
        raise ValueError("; ".join(wrong)) from None
