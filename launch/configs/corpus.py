"""A corpus from your own files: `meshwright run corpus`, or with other paths `--set
data.sources.web.paths='[crawl/]'` and so on.

It reads `corpora/web` (WARC or WET files), `corpora/code` (source trees), `corpora/books` (.txt, .txt.gz,
.epub) and keeps the questions of `corpora/tasks/gsm8k.jsonl` out. Hardware: any CPU, or a Ray cluster
(`--set data.engine.ray=auto`); docs/corpora.md says what a terabyte takes. Expect: of Project Gutenberg's
chapters 99 % stay, of the files of permissively licensed Python packages 84 %, of pages that are lists of
signatures (pydoc) 50 %: the web recipe is made for running text.
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

# Every rule names the sources that it applies to.
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
            # One document in a thousand: for a terabyte that is a gigabyte of held-out text.
            held_out_frac=0.001,
            held_out_filter=HeldOutFilter(jaccard=0.7, common_groups=8),
            # 2**15: ids fit 16 bits in shards, and every power of two divides the vocabulary.
            tokenizer=SentencePiece(vocab_size=32_768, model="bpe", sample_mib=256),
            # Shares of the tokenizer's training sample, whatever the sizes of the sources.
            tokenizer_weights=FrozenMap(web=0.6, code=0.3, books=0.1),
            seed=0,
        )
    }


def recipe() -> tuple[Rule, ...]:
    """Each source's published recipe, then toxicity filters, then removal of the evaluation questions."""
    gsm8k = Questions(
        name="gsm8k", path="corpora/tasks/gsm8k.jsonl", question=("question",), answer="answer"
    )
    return (
        *web_recipe(sources=WEB),
        *code_recipe(sources=CODE),
        Pii(sources=BOOKS, kinds=("email", "phone")),
        *book_recipe(sources=BOOKS),
        Toxicity(sources=WEB, max_score=0.5),
        # Higher for books: a novel may quote what a web page would be dropped for.
        Toxicity(sources=BOOKS, max_score=0.8),
        Decontaminate(
            sources=(*WEB, *CODE, *BOOKS),
            tasks=(gsm8k,),
            action="drop",
            # If more were removed the questions would be common text; the phase then stops.
            max_removed_frac=0.05,
        ),
    )
