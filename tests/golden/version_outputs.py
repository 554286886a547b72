"""What each data component makes of the inputs of version_inputs.py: (name, VERSION, output)."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline import settings
from data_pipeline.chat.message import text_message
from data_pipeline.chat.roles import Roles
from data_pipeline.chat.template import Template
from data_pipeline.clean import classifier
from data_pipeline.clean.book import BookQuality
from data_pipeline.clean.c4 import C4EndMarks, C4Lines, C4Page
from data_pipeline.clean.code import CodeKind, CodeQuality
from data_pipeline.clean.decontaminate import Decontaminate
from data_pipeline.clean.dedup import ExactDedup
from data_pipeline.clean.fineweb import FineWeb
from data_pipeline.clean.held_out import (
    HeldOutFilter,
    find,
    runs_of,
    without_common,
    without_held_out,
)
from data_pipeline.clean.language import Language
from data_pipeline.clean.line_dedup import LineDedup
from data_pipeline.clean.line_edits import LineEdits
from data_pipeline.clean.menus import Menus
from data_pipeline.clean.near_dedup import NearDedup
from data_pipeline.clean.normalise import Normalise
from data_pipeline.clean.overlap import HeldOutIndex
from data_pipeline.clean.pii import Pii
from data_pipeline.clean.quality import GopherQuality, TooShort
from data_pipeline.clean.quality_classifier import QualityClassifier
from data_pipeline.clean.repetition import GopherRepetition
from data_pipeline.clean.rule import AcrossRule, Rule
from data_pipeline.clean.safety import Blocklist, Toxicity
from data_pipeline.clean.secrets import Secrets
from data_pipeline.clean.site_menus import SiteMenus
from data_pipeline.clean.substring_dedup import SubstringDedup
from data_pipeline.clean.url import UrlFilter
from data_pipeline.component import FrozenMap
from data_pipeline.documents.columns import Columns
from data_pipeline.documents.document import Document
from data_pipeline.documents.drops import Drops
from data_pipeline.engine.runner import Engine
from data_pipeline.prepare import Prepare
from data_pipeline.readers.books import Books
from data_pipeline.readers.code_tree import CodeTree, StdlibCode
from data_pipeline.readers.html_folder import HtmlFolder
from data_pipeline.readers.hugging_face import HuggingFace
from data_pipeline.readers.jsonl import Jsonl
from data_pipeline.readers.parquet import Parquet
from data_pipeline.readers.part import Reader, read_all
from data_pipeline.readers.stdlib_docs import StdlibDocs
from data_pipeline.readers.text_file import TextFile
from data_pipeline.readers.texts import Texts
from data_pipeline.readers.warc import Warc
from data_pipeline.rows import plan
from data_pipeline.rows.fim import FillInTheMiddle
from data_pipeline.rows.pack import BestFit, ConcatenateAndSplit, OnePerRow
from data_pipeline.shards import shards
from data_pipeline.shards.record import Record, Sequence, id_key, pack
from data_pipeline.stages import (
    across,
    annotate,
    chats,
    ingest,
    select,
    separate,
    tokens,
    vocabulary,
)
from data_pipeline.stages.docstring_chats import DocstringChats
from data_pipeline.tasks.questions import Questions
from data_pipeline.tokenizers.hugging_face import HuggingFaceTokenizer
from data_pipeline.tokenizers.tokenizer import SentencePiece, Tokenizer
from data_pipeline.tokenizers.trained import TrainedTokenizer
from tests.data_pipeline.templates import CHATML, with_template
from tests.golden.version_inputs import EXAMPLES, TEXTS, documents

SOURCE = ("all",)
COLUMNS = Columns(path="url", language="lang")
CHAT = [text_message("user", "What is it?"), text_message("assistant", "A test.")]
DIGITS = 5  # of a number: further ones may differ with the processor
STDLIB = ("bisect.py", "json/decoder.py")  # files that every Python has


def plain(value: Any) -> Any:
    """A value as JSON has it; numbers to `DIGITS` digits, so that no processor makes another digest."""
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, pa.Table):
        return plain(value.to_pydict())
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float):
        return f"{value:.{DIGITS}g}"
    return value


def reader_outputs(folder: Path) -> Iterator[tuple[str, int, Any]]:
    """(name, VERSION, output) of every reader: its documents, and how many records it dropped."""
    readers: list[Reader] = [
        HtmlFolder(folder=str(folder / "pages")),
        Warc(paths=(str(folder / "web.warc.gz"),)),
        Books(folder=str(folder / "books"), topics=False, unit="chapter", lines="joined"),
        Texts(folder=str(folder / "books")),
        TextFile(path=str(folder / "books" / "plain.txt"), pieces=3),
        CodeTree(folder=str(folder / "code")),
        Jsonl(paths=(str(folder / "rows.jsonl"),), columns=COLUMNS),
        Parquet(paths=(str(folder / "tables"),), columns=COLUMNS),
        HuggingFace(folder=str(folder / "dataset"), split="train", columns=COLUMNS),
    ]
    for reader in readers:
        drops = Drops()
        read = list(read_all(reader, "all", work=folder / "work", drops=drops))
        yield _name("readers", reader), reader.VERSION, [read, drops.as_json()["dropped"]]
    # what Python's own corpora say differs from Python to Python; how they are named does not
    for reader in (StdlibCode(), StdlibDocs(modules=("bisect", "json.decoder"))):
        read = read_all(reader, "all", work=folder / "work")
        stable = [document._replace(id="", text="") for document in read if _is_stable(document)]
        yield _name("readers", reader), reader.VERSION, stable


def _is_stable(document: Document) -> bool:
    return "://" in document.path or document.path in STDLIB


def rule_outputs(folder: Path) -> Iterator[tuple[str, int, Any]]:
    """(name, VERSION, output) of every cleaning rule, and of the filter between the two sides."""
    task = Questions(
        name="task", path=str(folder / "tasks.jsonl"), question=("question",), answer="answer"
    )
    words, good, bad = (str(folder / name) for name in ("words.txt", "good", "bad"))
    rules: list[Rule] = [
        BookQuality(sources=SOURCE, min_letter_frac=0.75, n_paragraphs=32),
        C4Lines(sources=SOURCE, min_line_words=3),
        C4EndMarks(sources=SOURCE),
        C4Page(sources=SOURCE),
        CodeQuality(sources=SOURCE),
        CodeKind(sources=SOURCE),
        FineWeb(sources=SOURCE),
        Language(sources=SOURCE, languages=("en", "ru"), first_chars=800),
        LineEdits(sources=SOURCE),
        Menus(sources=SOURCE),
        Normalise(sources=SOURCE, repair_mojibake=True),
        Pii(sources=SOURCE),
        GopherQuality(sources=SOURCE),
        TooShort(sources=SOURCE, min_words=30),
        GopherRepetition(sources=SOURCE),
        Blocklist(sources=SOURCE, files=FrozenMap({"": words}), max_hits=1, max_hits_per_kword=5.0),
        Toxicity(sources=SOURCE, max_score=0.5),
        Secrets(sources=SOURCE),
        UrlFilter(sources=SOURCE, blocked=(words,)),
        QualityClassifier(sources=SOURCE, positive=good, negative=bad, keep_frac=0.5),
        ExactDedup(sources=SOURCE, max_removed_frac=0.9),
        NearDedup(sources=SOURCE, max_removed_frac=0.9, shingle_words=3),
        LineDedup(sources=SOURCE, part="line", max_documents=1, min_words=3, max_removed_frac=0.9),
        SiteMenus(sources=SOURCE, max_pages=1),
        SubstringDedup(sources=SOURCE, min_bytes=60, max_removed_frac=0.99),
        Decontaminate(sources=SOURCE, tasks=(task,), action="cut", max_removed_frac=1.0),
    ]
    for rule in rules:
        annotated, signals = rule.annotate(documents())
        output = [annotated, signals, rule.limits()]
        if isinstance(rule, AcrossRule):
            output.append(_verdicts(rule, signals, folder))
        yield _name("clean", rule), rule.VERSION, output
    yield _name("tasks", task), task.VERSION, [list(task.texts()), task.items()]
    trained = classifier.train_classifier(*([text] for text in EXAMPLES.values()))
    yield "clean.classifier", classifier.VERSION, [trained.logits(list(TEXTS.values()))]
    held_out_filter = HeldOutFilter(jaccard=0.7, common_groups=2)
    yield _name("clean", held_out_filter), held_out_filter.VERSION, _sides(held_out_filter)


def _verdicts(rule: AcrossRule, signals: Mapping[str, Any], folder: Path) -> list[Any]:
    """What a rule across documents finds, drops and cuts."""
    columns = {"document": np.arange(len(TEXTS))} | {
        name: pa.array(keys) for name, keys in signals.items()
    }
    keys, found = folder / "keys.parquet", folder / "found.parquet"
    pq.write_table(pa.table(columns), keys)
    rule.resolve([keys], found)
    verdicts = across.columns(pq.read_table(found))
    spans = []
    for number, document in enumerate(documents()):
        rows = verdicts["document"] == number
        if rows.any():
            spans.append(
                rule.spans(document, {name: values[rows] for name, values in verdicts.items()})
            )
    return [verdicts, rule.dropped(verdicts), spans]


def _sides(held_out_filter: HeldOutFilter) -> list[Any]:
    """What is left of both sides when the first document and the code are held out."""
    held_out = [
        document for document in documents() if document.path.endswith(("en.html?q=1", "code.py"))
    ]
    training = [document for document in documents() if document not in held_out]
    index = HeldOutIndex(held_out, jaccard=held_out_filter.jaccard)
    found = [find(document, index) for document in training]
    common = held_out_filter.common(each for each in found if each is not None)
    drops = Drops()
    kept = [without_common(document, index, common, drops) for document in held_out]
    runs = runs_of(document for document in kept if document is not None)
    left = [
        without_held_out(document, each, common, runs, drops)
        for document, each in zip(training, found, strict=True)
    ]
    return [found, sorted(common), kept, left, drops.as_json()["dropped"]]


def format_outputs(folder: Path) -> Iterator[tuple[str, int, Any]]:
    """(name, VERSION, output) of tokenizers, chat formats, packing, records and plans."""
    texts = list(TEXTS.values())
    trainer = SentencePiece(vocab_size=700, model="bpe")
    trainer.train(texts, folder / "tokenizer.model")
    tokenizer = Tokenizer(folder / "tokenizer.model")
    yield _name("tokenizers", trainer), trainer.VERSION, tokenizer.encode_all(texts)
    copied = TrainedTokenizer(path=str(folder / "tokenizer.model"))
    copied.make({}, folder / "copied.model", weights={})
    yield (
        _name("tokenizers", copied),
        copied.VERSION,
        Tokenizer(folder / "copied.model").encode_all(texts),
    )
    _write_tokenizer_json(folder / "tokenizer.json")
    foreign = HuggingFaceTokenizer(path=str(folder / "tokenizer.json"), bos="<s>", eos="</s>")
    foreign.make({}, folder / "foreign.model", weights={})
    yield (
        _name("tokenizers", foreign),
        foreign.VERSION,
        Tokenizer(folder / "foreign.model").encode_all(texts),
    )

    for chat in (Roles(tokenizer), Template(with_template(CHATML, folder))):
        rendered, prompt = chat.render(CHAT), chat.prompt(CHAT[:1])
        answer = chat.parse(rendered.tokens[len(prompt) :].tolist())
        yield _name("chat", chat), chat.VERSION, [rendered, prompt, answer]

    lengths = np.array([3, 9, 0, 17, 5, 5, 1, 30])
    for packing in (BestFit(overlap=2), OnePerRow(overlap=2), ConcatenateAndSplit()):
        yield _name("rows", packing), packing.VERSION, packing.plan(lengths, 10)
    blocks = plan.planned(len(lengths), lambda some: BestFit().plan(lengths[some], 10))
    (folder / "shards").mkdir()
    yield "rows.plan", plan.VERSION, plan.stored_plan(folder / "shards", "key", blocks)

    records = []
    for document in documents():
        ids = np.array([tokenizer.bos, *tokenizer.encode(document.text), tokenizer.eos], np.int32)
        records.append(Record(document.id, (Sequence(ids, np.ones(len(ids), np.uint8)),)))
    ids = np.array([id_key(record.id) for record in records], np.uint64)
    fim = FillInTheMiddle(rate=0.5)
    yield _name("rows", fim), fim.VERSION, fim.rewrite(records, ids, 1, tokenizer)
    written = shards.write_shard(folder / "shards" / "00000.arrayrecord", records)
    index = np.load(folder / "shards" / "00000.npy")
    described = {name: written[name] for name in ("records", "tokens", "sequences")}
    yield "shards.shards", shards.VERSION, [list(map(pack, records)), index.tolist(), described]


def _write_tokenizer_json(path: Path) -> None:
    """A byte-level tokenizer of no merges, as Hugging Face's library writes one."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = tokenizers.Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<s>", "</s>"])
    made.save(str(path))


def stage_outputs(folder: Path) -> Iterator[tuple[str, int, Any]]:
    """(name, VERSION, output) of every stage of `Prepare`: a small job, and what each stage left on the disk."""
    docstring_chats = DocstringChats(source="code", n_chats=20, n_pairs=10, max_tokens=500)
    job = Prepare(
        sources=FrozenMap(
            web=HtmlFolder(folder=str(folder / "pages")), code=CodeTree(folder=str(folder / "code"))
        ),
        recipe=(
            Normalise(sources=("web", "code"), repair_mojibake=True),
            TooShort(sources=("web", "code"), min_words=5),
            ExactDedup(sources=("web", "code"), max_removed_frac=0.5),
        ),
        held_out_frac=0.3,
        held_out_filter=HeldOutFilter(jaccard=0.9, common_groups=9),
        tokenizer=SentencePiece(vocab_size=400, model="bpe"),
        chats=docstring_chats,
        seed=1,
        shard_records=4,
        engine=Engine(workers=1),
    )
    data = folder / "job" / "data"
    job.execute(data, job_folder=data.parent)
    stages = {
        "ingest": (ingest, "*/*/documents.parquet"),
        "annotate": (annotate, "*/*/*.parquet"),
        "across": (across, "*/*.parquet"),
        "select": (select, "*/*/*.parquet"),
        "separate": (separate, "*/*/*.parquet"),
        "chats": (chats, "*/*/*.jsonl"),
    }
    for name, (module, pattern) in stages.items():
        made = [_content(path) for path in (data / "stages" / name).glob(pattern)]
        # the names of files are hashes of versions: what they hold puts them in order
        yield f"stages.{name}", module.VERSION, sorted(made, key=settings.digest)
    tokenizer = Tokenizer(data / "tokenizer.model")
    yield "stages.vocabulary", vocabulary.VERSION, tokenizer.encode_all(list(TEXTS.values()))
    records = {
        f"{side}/{source}": list(map(pack, shards.Shards(data / side / source)))
        for side in ("train", "held_out")
        for source in (*job.sources, "chat", "pairs")
    }
    yield "stages.tokens", tokens.VERSION, records
    made = [
        records[f"{side}/{kind}"] for side in ("train", "held_out") for kind in ("chat", "pairs")
    ]
    yield _name("stages", docstring_chats), docstring_chats.VERSION, made


def _content(path: Path) -> Any:
    """The rows of a file, without what names this machine."""
    if path.suffix == ".jsonl":
        return path.read_text(encoding="utf-8")
    return plain(pq.read_table(path))


def _name(folder: str, component: Any) -> str:
    return f"{folder}.{type(component).__name__}"
