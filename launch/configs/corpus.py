"""A corpus from your own files: `meshwright run corpus`, or with other paths `--set
data.sources.web.paths='[crawl/]'` and so on.

It reads `corpora/web` (WARC or WET files), `corpora/code` (source trees), `corpora/books` (.txt, .txt.gz,
.epub) and keeps the questions of `corpora/tasks/gsm8k.jsonl` out. Hardware: any CPU, or a Ray cluster
(`--set data.engine.ray=auto`); docs/corpora.md says what a terabyte takes. Expect: of Project Gutenberg's
chapters 99 % stay, of the files of permissively licensed Python packages 84 %, of pages that are lists of
signatures (pydoc) 14 %: the web recipe is made for running text.
"""

from typing import Any

from data_pipeline.clean.decontaminate import Decontaminate
from data_pipeline.clean.held_out import HeldOutFilter
from data_pipeline.clean.pii import Pii
from data_pipeline.clean.recipe import book_recipe, code_recipe, web_recipe
from data_pipeline.clean.rule import Rule
from data_pipeline.clean.safety import Toxicity
from data_pipeline.component import FrozenMap
from data_pipeline.prepare import Prepare
from data_pipeline.readers.books import Books
from data_pipeline.readers.code_tree import CodeTree
from data_pipeline.readers.licences import PERMISSIVE
from data_pipeline.readers.warc import Warc
from data_pipeline.tasks.questions import Questions
from data_pipeline.tokenizers.tokenizer import SentencePiece

# Rules take tuples of source names; most concern one source.
WEB, CODE, BOOKS = ("web",), ("code",), ("books",)


def corpus() -> dict[str, Any]:
    """One phase: your files become cleaned, tokenized shards."""
    return {
        "data": Prepare(
            sources=FrozenMap(
                web=Warc(paths=("corpora/web",)),
                code=CodeTree(folder="corpora/code", licences=PERMISSIVE),
                books=Books(folder="corpora/books", topics=False, unit="chapter", lines="joined"),
            ),
            recipe=recipe(),
            # One document in a thousand: of a terabyte that is still a gigabyte of text.
            held_out_frac=0.001,
            held_out_filter=HeldOutFilter(jaccard=0.7, common_groups=8),
            # 32,768 entries are 2**15: ids fit 16 bits in shards, and a mesh of any power of two
            # divides them.
            tokenizer=SentencePiece(vocab_size=32_768, model="bpe", sample_mib=256),
            # Shares of the sample it learns from, whatever the sizes of the sources are.
            tokenizer_weights=FrozenMap(web=0.6, code=0.3, books=0.1),
            seed=0,
        )
    }


def recipe() -> tuple[Rule, ...]:
    """Each source's published recipe, then what concerns all: safety, and the tasks that the model will be
    asked.
    """
    gsm8k = Questions(
        name="gsm8k", path="corpora/tasks/gsm8k.jsonl", question=("question",), answer="answer"
    )
    return (
        *web_recipe(sources=WEB),
        *code_recipe(sources=CODE),
        Pii(sources=BOOKS, kinds=("email", "phone")),
        *book_recipe(sources=BOOKS),
        Toxicity(sources=WEB, max_score=0.5),
        Toxicity(sources=BOOKS, max_score=0.8),  # novels quote
        Decontaminate(
            # More than 5 % removed is a sign of a wrong pattern, and the rule refuses to go on.
            sources=(*WEB, *CODE, *BOOKS),
            tasks=(gsm8k,),
            action="drop",
            max_removed_frac=0.05,
        ),
    )
