"""Laws of fill-in-the-middle: nothing of a text is lost, its parts stand where the order says, and a
document's turn is its own.
"""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.documents.document import content_id
from data_pipeline.loader import PackedShards
from data_pipeline.rows.fim import FillInTheMiddle
from data_pipeline.rows.pack import Plan
from data_pipeline.rows.sequence import RowSequence
from data_pipeline.shards.record import Record, Sequence, id_key
from data_pipeline.shards.shards import write_shards
from data_pipeline.tokenizers.tokenizer import SentencePiece, Tokenizer

L = 48
RNG = np.random.default_rng(0)
TEXTS = [
    f'def f_{i}(x):\n    """Привет, ▁ {"é" * (i % 5)}"""\n    return {"x + 1 " * int(RNG.integers(0, 30))}\n'
    for i in range(60)
]
FIM = FillInTheMiddle(rate=0.5)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    SentencePiece(vocab_size=330, model="bpe").train(TEXTS, folder / "data" / "tokenizer.model")
    tokenizer = Tokenizer(folder / "data" / "tokenizer.model")
    records = [record_of(text, tokenizer) for text in TEXTS]
    lineage = {"tokenizer": tokenizer.fingerprint}
    write_shards(
        folder / "data" / "code",
        records,
        source="code",
        n_bytes=1,
        shard_records=9,
        lineage=lineage,
    )
    return folder


@pytest.fixture(scope="module")
def tokenizer(root) -> Tokenizer:
    return Tokenizer(root / "data" / "tokenizer.model")


def record_of(text: str, tokenizer: Tokenizer) -> Record:
    tokens = np.array([tokenizer.bos, *tokenizer.encode(text), tokenizer.eos], np.int32)
    return Record(content_id(text), (Sequence(tokens, np.ones(len(tokens), np.uint8)),))


def rewritten(
    texts: list[str], tokenizer: Tokenizer, fim: FillInTheMiddle = FIM, epoch: int = 0
) -> list[list[int]]:
    records = [record_of(text, tokenizer) for text in texts]
    ids = np.array([id_key(record.id) for record in records], np.uint64)
    return [
        record.sequences[0].tokens.tolist()
        for record in fim.rewrite(records, ids, epoch, tokenizer)
    ]


def parts_of(tokens: list[int], tokenizer: Tokenizer) -> tuple[str, str, str, bool] | None:
    """(prefix, middle, suffix, suffix first) of a document that was turned around."""
    begin, behind, between = (tokenizer.fim[part] for part in ("prefix", "suffix", "middle"))
    if begin not in tokens:
        return None
    assert tokens[:2] == [tokenizer.bos, begin] and tokens[-1] == tokenizer.eos
    at_suffix, at_middle = tokens.index(behind), tokens.index(between)
    first, second, third = (
        tokenizer.decode(part)
        for part in (tokens[2:at_suffix], tokens[at_suffix:at_middle], tokens[at_middle:])
    )
    return (first, third, second, False) if at_suffix > 2 else ("", third, second, True)


@settings(max_examples=60)
@given(text=st.text(min_size=1, max_size=40), epoch=st.integers(0, 5))
def test_a_turned_document_has_its_text_and_the_orders_of_the_paper(tokenizer, text, epoch):
    always = FillInTheMiddle(rate=1.0)
    (tokens,) = rewritten([text], tokenizer, always, epoch)
    prefix, middle, suffix, suffix_first = parts_of(tokens, tokenizer)
    if suffix_first:  # the middle is written right behind the prefix: <pre><suf> S <mid> P M
        assert middle + suffix == text
    else:
        assert prefix + middle + suffix == text


def test_parts_are_encoded_by_themselves(tokenizer):
    (tokens,) = rewritten([TEXTS[4] * 3], tokenizer, FillInTheMiddle(rate=1.0, spm_rate=0.0))
    prefix, middle, suffix, _ = parts_of(tokens, tokenizer)
    begin, behind, between = (tokenizer.fim[part] for part in ("prefix", "suffix", "middle"))
    encoded = [tokenizer.encode(part) for part in (prefix, suffix, middle)]
    assert tokens == [
        tokenizer.bos,
        begin,
        *encoded[0],
        behind,
        *encoded[1],
        between,
        *encoded[2],
        tokenizer.eos,
    ]


def test_rates_are_kept_and_cuts_fall_evenly(tokenizer):
    texts = [f"{i:0200d}" for i in range(1000)]
    found = [
        parts_of(tokens, tokenizer)
        for tokens in rewritten(texts, tokenizer, FillInTheMiddle(rate=0.3, spm_rate=0.25))
    ]
    turned = [parts for parts in found if parts]
    assert (
        abs(len(turned) - 300) < 60
        and abs(sum(suffix_first for *_, suffix_first in turned) - 75) < 30
    )
    lengths = np.array([len(middle) for _, middle, _, suffix_first in turned if not suffix_first])
    assert abs(lengths.mean() - 200 / 3) < 10  # how far apart two even draws are


def test_what_happens_to_a_document_is_a_function_of_its_id_and_the_epoch(tokenizer):
    forward, backward = rewritten(TEXTS, tokenizer), rewritten(TEXTS[::-1], tokenizer)
    assert forward == backward[::-1] and forward != rewritten(TEXTS, tokenizer, epoch=1)
    assert [rewritten([text], tokenizer)[0] for text in TEXTS[:9]] == forward[:9]


def test_documents_that_are_not_plain_stay_as_they_are(tokenizer):
    plain = record_of("a text", tokenizer)
    (tokens, weight), *_ = plain.sequences
    answers = plain._replace(sequences=(Sequence(tokens, np.array([0, *weight[1:]], np.uint8)),))
    with_control = np.array([*tokens[:-1], tokenizer.end_of_turn, tokenizer.eos], np.int32)
    chat = plain._replace(sequences=(Sequence(with_control, np.ones(len(with_control), np.uint8)),))
    cut = plain._replace(sequences=(Sequence(tokens[:-1], weight[:-1]),))
    records = [answers, chat, cut]
    ids = np.array([id_key(record.id) for record in records], np.uint64)
    assert FillInTheMiddle(rate=1.0).rewrite(records, ids, 0, tokenizer) == records


def opened(root: Path, **change) -> RowSequence:
    data = PackedShards(
        folder="data", weights={"code": 1.0}, seq_len=L, batch_size=4, fim={"code": FIM}, **change
    )
    return RowSequence(data.sources(root), data.weights, 0, data.schedule)


def test_every_epoch_has_every_document_once_turned_by_its_own_draw(root, tokenizer):
    sequence = opened(root)
    (segment,) = sequence.sources["code"].segments
    first, ids = 0, segment.ids()
    for epoch in range(3):
        n, pieces = len(segment.plan(epoch)), {}
        for i in range(first, first + n):
            row = sequence[i]
            for k, origin in enumerate(sequence.origins(i), 1):
                assert origin.epoch == epoch
                pieces.setdefault(origin.document, {})[origin.start] = row["tokens_L"][
                    row["segments_L"] == k
                ].tolist()
        assert len(pieces) == len(TEXTS)
        expected = rewritten(TEXTS, tokenizer, epoch=epoch)
        for number, tokens in enumerate(expected):
            found = pieces[segment.shards[number].id]
            assert sum((found[start] for start in sorted(found)), []) == tokens[:-1]
        turned = [tokenizer.fim["prefix"] in tokens for tokens in expected]
        assert turned == FIM.chosen(ids, epoch).tolist() and 10 < sum(turned) < 50
        first += n


def test_the_rows_of_a_document_are_found_across_epochs(root):
    sequence = opened(root)
    name, stop = sequence.sources["code"].shards[17].id, 200
    expected = [
        i for i in range(stop) if name in {origin.document for origin in sequence.origins(i)}
    ]
    assert sequence.rows_of("code", name, stop) == expected and len(expected) > 1


def test_the_fingerprint_knows_the_rates_and_the_tokenizer_must_be_that_of_the_shards(
    root, tmp_path
):
    other = PackedShards(
        folder="data",
        weights={"code": 1.0},
        seq_len=L,
        batch_size=4,
        fim={"code": FillInTheMiddle(rate=0.6)},
    )
    assert other.sources(root)["code"].fingerprint != opened(root).sources["code"].fingerprint
    SentencePiece(vocab_size=320, model="bpe").train(TEXTS, root / "other.model")
    wrong = other.model_copy(
        update={"fim": {"code": FillInTheMiddle(rate=0.5, tokenizer="other.model")}}
    )
    with pytest.raises(
        ValueError,
        match=r"fim.tokenizer=other.model is not the one .*code was made with; name that one",
    ):
        wrong.sources(root)


def test_a_plan_that_no_longer_fits_is_refused_with_a_remedy(root):
    rows = opened(root).sources["code"]
    (segment,) = rows.segments
    plan = segment.plan(0)
    segment._plans[0] = Plan(plan.pieces + np.array([0, 0, 1]), plan.offsets)
    with pytest.raises(
        ValueError,
        match=r"document .* is shorter than its plan says; a library encodes .* delete the folder's plans",
    ):
        [rows[i] for i in range(len(rows))]
