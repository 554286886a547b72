"""The verb `generate`: text from a checkpoint of a run."""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from launch.running.find import WHERE, find_phase


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """PATH, prompts, and how tokens are chosen."""
    parser.add_argument("path", metavar="PATH", type=Path, help=f"the folder of {WHERE}")
    parser.add_argument(
        "--prompt",
        metavar="TEXT",
        action="append",
        help="text to continue; may be repeated (default: each line of standard input)",
    )
    parser.add_argument(
        "--chat", action="store_true", help="a prompt is a user's message, and the text its answer"
    )
    parser.add_argument("--max-tokens", metavar="N", type=int, default=128, help="longest text (default 128)")
    parser.add_argument(
        "--temperature",
        metavar="T",
        type=float,
        default=0.0,
        help="above 0: sample; 0: the likeliest token always (default)",
    )
    parser.add_argument("--top-k", metavar="K", type=int, help="sample among the K likeliest tokens")
    parser.add_argument(
        "--top-p",
        metavar="P",
        type=float,
        help="sample among the likeliest tokens that together have probability P",
    )
    parser.add_argument("--seed", metavar="S", type=int, default=0, help="of the sampling (default 0)")
    parser.add_argument(
        "--step", metavar="N", type=int, help="the checkpoint of this step (default: the newest)"
    )
    parser.add_argument(
        "--import",
        dest="imports",
        metavar="PACKAGE.MODULE",
        action="append",
        default=[],
        help="a module with components of your own",
    )


def main(args: argparse.Namespace) -> int:
    """Write the texts to standard output, each as it grows."""
    from launch.process.environment import prepare_process

    folder, step = find_phase(args.path, args.step)
    if not 0 <= args.seed < 2**32:
        raise ValueError(f"--seed {args.seed}: must be from 0 to 4294967295; choose another")
    prepare_process()
    import jax

    from launch.job.load import import_components
    from model.sharding import Mesh

    for module in args.imports:
        import_components(module)
    sampler = sampler_of(args.temperature, args.top_k, args.top_p)
    prompts = args.prompt or (line.rstrip("\n") for line in sys.stdin)
    with jax.set_mesh(Mesh().make()), jax.default_matmul_precision("float32"):
        write = writer(
            folder,
            step,
            sampler=sampler,
            max_tokens=args.max_tokens,
            chat=args.chat,
            key=jax.random.key(args.seed),
        )
        for number, prompt in enumerate(prompts):
            before = "\n" * (number > 0)  # an empty line between texts
            print(before if args.chat else before + prompt, end="", flush=True)
            for piece in write(number, prompt):
                print(piece, end="", flush=True)
            print(flush=True)
    return 0


def sampler_of(temperature: float, top_k: int | None, top_p: float | None) -> Any:
    """The sampling rule of the three options.

    Raises:
        ValueError: a value is wrong, or top-k or top-p stands beside temperature 0.
    """
    from pydantic import ValidationError

    from inference.sample import Greedy, Sampler

    if temperature == 0:
        if top_k is not None or top_p is not None:
            raise ValueError(
                "--top-k and --top-p choose among sampled tokens, and --temperature 0 samples none; set --temperature above 0"
            )
        return Greedy()
    try:
        return Sampler(temperature=temperature, top_k=top_k, top_p=top_p)
    except ValidationError as error:
        wrong = [
            f"--{str(detail['loc'][0]).replace('_', '-')} {detail['input']}: {detail['msg']}"
            for detail in error.errors()
        ]
        raise ValueError("; ".join(wrong)) from None


def writer(
    folder: Path, step: int | None, *, sampler: Any, max_tokens: int, chat: bool, key: Any
) -> Callable[[int, str], Iterator[str]]:
    """(number, prompt) -> pieces of its text. It computes in float32 whatever the training did: then the
    cache, the batch and the mesh do not change what is likeliest.
    """
    import jax

    from data_pipeline.chat.render import prompt as chat_prompt
    from data_pipeline.chat.template import template_of, template_prompt
    from data_pipeline.tokenizers.tokenizer import Tokenizer
    from inference.decode import stream, text_ids
    from model.execution import Precision
    from trainer.checkpoints.load import load_params

    loaded = load_params(folder, step)
    tokenizer = Tokenizer(loaded.tokenizer)
    model = loaded.architecture.build(Precision(compute="float32"))
    stop_ids = (tokenizer.eos, tokenizer.end_of_turn)
    settings = {
        "sampler": sampler,
        "context": loaded.architecture.context,
        "max_tokens": max_tokens,
        "stop_ids": stop_ids,
    }
    allowed_V, template = text_ids(tokenizer, stop_ids), template_of(loaded.tokenizer)

    def chat_ids(messages: list[dict[str, str]]) -> list[int]:
        return (
            template_prompt(template, messages, loaded.tokenizer)
            if template
            else chat_prompt(messages, tokenizer)
        )

    def write(number: int, prompt: str) -> Iterator[str]:
        ids = (
            chat_ids([{"role": "user", "content": prompt}])
            if chat
            else [tokenizer.bos, *tokenizer.encode(prompt)]
        )
        news = stream(
            model, loaded.params, [ids], key=jax.random.fold_in(key, number), allowed_V=allowed_V, **settings
        )
        return pieces((new for (new,) in news), tokenizer)

    return write


def pieces(news: Iterable[list[int]], tokenizer: Any) -> Iterator[str]:
    """The text of tokens as they come; a letter whose bytes are not all there yet is held back."""
    ids, shown = [], ""
    for new in news:
        ids += new
        ready = tokenizer.decode(ids).rstrip("\ufffd")
        yield ready[len(shown) :]
        shown = ready
    yield tokenizer.decode(ids)[len(shown) :]
