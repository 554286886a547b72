"""The `meshwright` command: `meshwright VERB …`, one file a verb with `add_arguments(parser)` and
`main(args) -> int`.

A verb's file is imported only when the verb is named, and imports jax and components only inside `main`, so
help is instant.
"""

import argparse
import difflib
import importlib
import importlib.metadata
import io
import os
import re
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

VERBS = {
    "run": "run the phases of a config in order; finished ones are skipped, a half-done one is resumed",
    "explain": "what a component or a field is: types, defaults, values; or all components there are",
    "show": "print the effective configuration as YAML that runs the same",
    "data": "look into token shards: inspect, verify, stats, check; which documents a training step saw",
    "report": "write the HTML report of a run, finished or not, or one that compares several runs",
    "replay": "repeat one step of a run and compare it with the log, bit for bit",
    "generate": "generate text from a checkpoint",
    "plan": "compile the training step for TPUs you do not have: memory, communication, time",
    "import": "turn a Hugging Face folder or a GGUF file into a phase: to train on, generate from, export",
    "export": "write a checkpoint as a Hugging Face folder",
    "tensorboard": "show the curves of a run in the browser, by TensorBoard",
    "bench": "measure training, checkpoints, optimizers, the data phase, or a new device",
}


def verb_module(verb: str) -> ModuleType:
    """The file of a verb in launch/verbs; `import` is a word of Python, so its file is import_model.py."""
    # Importing by name keeps the other verbs, and what they import, out of this process.
    file = "import_model" if verb == "import" else verb
    return importlib.import_module(f"launch.verbs.{file}")


class Parser(argparse.ArgumentParser):
    """One that reports a wrong usage as every other error is: by one sentence and exit code 2."""

    def error(self, message: str) -> NoReturn:
        """Called by argparse."""
        if choice := re.search(r"invalid choice: '?(.+?)'? \(choose from (.+)\)", message):
            known = choice[2].replace("'", "").split(", ")
            near = difflib.get_close_matches(choice[1], known, 1)
            remedy = f"nearest: {near[0]}" if near else f"choose one of {', '.join(known)}"
            message = f"{choice[1]}: no such choice; {remedy}"
        # A sentence of ours ends with its remedy.
        hint = "" if "; " in message else f"; `{self.prog} --help` lists what there is"
        # Its usage, which argparse would print first, is many lines long for most verbs.
        self.exit(2, f"meshwright: error: {message}{hint}\n")


def version() -> str:
    """What `meshwright --version` prints."""
    try:
        return f"meshwright {importlib.metadata.version('meshwright')}"
    except importlib.metadata.PackageNotFoundError:
        return "meshwright, from sources that are not installed"


def build_parser(verb: str | None) -> argparse.ArgumentParser:
    """The parser of all verbs; only the file of `verb` is imported for its arguments."""
    parser = Parser(
        prog="meshwright",
        description="From raw text to an aligned language model: corpora, pretraining, SFT, DPO, text.",
        epilog="`meshwright VERB --help` lists the options of a verb.",
        # Without this argparse accepts `--st` for `--set`, and an option added later would make
        # it ambiguous.
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=version())
    # Verbs that write into a run's folder set it; the log of a fault stands there.
    parser.set_defaults(run_dir=None)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, text in VERBS.items():
        # Every verb is listed, but only the named one has its options: `meshwright --help`
        # imports none.
        child = verbs.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False
        )
        if name == verb:
            # Before its own actions, whose parsers put themselves in its place.
            child.set_defaults(parser=child)
            verb_module(name).add_arguments(child)
    return parser


def wrong_verb(word: str) -> str:
    """What to say of a first word that is no verb."""
    from launch.verbs.arguments import CONFIGS

    configs = {path.stem for path in CONFIGS.glob("*.py")}
    if word in configs or word.endswith((".py", ".yaml", ".yml")):
        return f"{word} is a config, and no verb; write `meshwright run {word}`"
    near = difflib.get_close_matches(word, VERBS, 1)
    remedy = f"nearest: {near[0]}" if near else f"choose one of {', '.join(VERBS)}"
    return f"{word}: no such verb; {remedy}"


def refuse_rest(parser: argparse.ArgumentParser, rest: Sequence[str]) -> NoReturn:
    """End with a sentence about the first of the words that a verb's parser has left over."""
    word = rest[0].partition("=")[0]
    if not word.startswith("-"):
        parser.error(f"{word}: one argument too many, or an option's name is missing before it")
    # Only the help lists the options without private attributes of argparse.
    near = difflib.get_close_matches(word, re.findall(r"--[a-z][a-z-]*", parser.format_help()), 1)
    parser.error(f"{word}: no such option" + (f", nearest: {near[0]}" if near else ""))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code and prints an error as one sentence. `--help` and a wrong usage
    raise SystemExit.
    """
    argv = list(sys.argv[1:] if argv is None else argv)

    if not argv:
        # who types the bare command asks what it can do
        build_parser(None).print_help(sys.stderr)
        return 2

    # not argv[0]: `--help` may stand before the verb
    first = next((word for word in argv if not word.startswith("-")), None)
    parser = build_parser(first)
    if first is not None and first not in VERBS:
        parser.error(wrong_verb(first))
    args, rest = parser.parse_known_args(argv)
    if rest:
        refuse_rest(args.parser, rest)
    args.argv = argv
    run = verb_module(args.verb).main
    try:
        return run(args) or 0
    except SystemExit:  # argparse has printed its own message
        raise
    except BaseException as error:
        from launch.process import stopping
        from launch.process.failures import report

        stopping.end_at_once()
        return report(stopping.instead_of(error), args)


def command() -> None:
    """Entry point of the console script: `_command`, under handlers that forget no signal."""
    # The first thing of all: importing jax takes seconds, in which a signal may come.
    from launch.process import stopping

    try:
        stopping.listen()
        _command()
    # Before and after `main`, which reports what comes inside.
    except (KeyboardInterrupt, stopping.Terminated) as error:
        code, sentence = stopping.explain(error)
        print(f"meshwright: {sentence}", file=sys.stderr, flush=True)
        os._exit(code)


def _command() -> None:
    """`main`, then leave without waiting for peers that are gone."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal of another character set shows escapes, where Python would end the run by an error.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        os.getcwd()
    except FileNotFoundError:
        remedy = "change into another one"
        print(f"meshwright: error: the working directory was removed; {remedy}", file=sys.stderr)
        sys.exit(2)
    if {"run", "bench", "replay"} & set(sys.argv[1:2]):  # the verbs that train on this machine
        from launch.process.hardware import use_huge_pages

        use_huge_pages()
        from launch.process.aborts import explain_aborts

        explain_aborts()
    from launch.process.children import keep_out_working_directory

    # After the restart above, which may need the working directory to find us.
    keep_out_working_directory()
    code = main()
    # A normal exit waits for the peers of jax.distributed; without jax there are none.
    if "jax" in sys.modules:
        from launch.process.environment import leave

        leave(code)
    # os._exit below flushes nothing: a last line still in Python's buffer would be lost.
    sys.stdout.flush()
    if code and "daft" in sys.modules:
        # Its threads may still be working, and would abort the interpreter while it shuts down.
        os._exit(code)
    # Python remembers that Ctrl-C has broken off an `exec` of text, such as a dataclass makes, whoever caught
    # it, and `python -m` then ends by the signal in place of the code; the next such `exec` makes it forget.
    exec("")
    sys.exit(code)


if __name__ == "__main__":
    # "" means the current folder at the time of an import, and a later chdir must not move our imports
    sys.path[:] = [os.getcwd() if entry == "" else entry for entry in sys.path]
    command()
