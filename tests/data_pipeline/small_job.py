"""A small real data job: code files, books and a WARC."""

import contextlib
import gzip
import itertools
import json
import pydoc_data.topics
import shutil
import sysconfig
from html import escape
from pathlib import Path

from data_pipeline.clean.held_out import HeldOutFilter
from data_pipeline.clean.recipe import standard_recipe
from data_pipeline.component import FrozenMap
from data_pipeline.engine.runner import Engine
from data_pipeline.prepare import Prepare
from data_pipeline.readers.books import Books
from data_pipeline.readers.code_tree import CodeTree
from data_pipeline.readers.warc import Warc
from data_pipeline.readers.warc_records import write_record
from data_pipeline.stages.docstring_chats import DocstringChats
from data_pipeline.tokenizers.tokenizer import SentencePiece

SOURCES, KINDS = ("web", "code", "books"), ("web", "code", "books", "chat", "pairs")


MODULES = """abc bisect calendar cmd code codeop colorsys copy csv fnmatch getopt getpass heapq netrc queue sched shelve shlex stat
textwrap""".split()


def make_raw(folder: Path) -> Path:
    """Twenty modules, and the longest help topics: half of them as books, half as pages of a WARC."""
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    for name in ("code", "books", "web"):
        (folder / name).mkdir(parents=True)
    for module in MODULES:
        shutil.copy(stdlib / f"{module}.py", folder / "code")
    topics = sorted(pydoc_data.topics.topics.items(), key=lambda item: -len(item[1]))[2:32]
    for name, text in topics[::2]:
        (folder / "books" / f"{name}.txt").write_text(text, encoding="utf-8")
    (folder / "books" / "noise.txt").write_bytes(bytes(range(256)) * 9)
    pages = []
    for name, text in topics[1::2]:
        body = "".join(f"<p>{escape(part)}</p>" for part in text.split("\n\n"))
        html = f"<html><head><title>{name}</title></head><body><main><h1>{name}</h1>{body}</main></body></html>"
        record = write_record(
            url=f"http://example.org/{name}", html=html.encode(), date="2000-01-01T00:00:00Z"
        )
        pages.append(gzip.compress(record, mtime=0))
    (folder / "web" / "pages.warc.gz").write_bytes(b"".join(pages))
    return folder


def prepare(raw: Path, **changes) -> Prepare:
    fields = {
        "sources": FrozenMap(
            {
                "web": Warc(paths=(str(raw / "web"),)),
                "code": CodeTree(folder=str(raw / "code")),
                "books": Books(folder=str(raw / "books"), topics=False),
            }
        ),
        "recipe": standard_recipe(),
        "held_out_frac": 0.2,
        "held_out_filter": HeldOutFilter(jaccard=0.7, common_groups=8),
        "tokenizer": SentencePiece(vocab_size=600, model="bpe"),
        "chats": DocstringChats(source="code", n_chats=100, n_pairs=60, max_tokens=200),
        "seed": 1,
        "shard_records": 7,
        "engine": Engine(workers=1),
    }
    return Prepare(**(fields | changes))


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_bytes())


class Watch:
    """A progress display that calls `act` with a stage and how far it is: at its start, and after every
    advance.
    """

    def __init__(self, act):
        self.act = act

    @contextlib.contextmanager
    def __call__(self, what, total=None, *, unit="", done=0):
        counted = itertools.count()

        def advance(n=1, note=""):
            self.act(what.strip(), next(counted))

        advance()
        yield advance


def made(folder: Path) -> list[Path]:
    """What the stages of an unfinished job have finished."""
    return [
        path
        for path in (folder / "stages").rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.parts)
    ]


def outputs(folder: Path) -> dict[str, bytes]:
    """What the trainer and people read."""
    return {
        name: content for name, content in tree(folder).items() if not name.startswith("stages/")
    }


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
