"""Blocklists, the toxicity classifier that ships with the package, and pages by their address."""

import hashlib

import numpy as np
import pytest

from data_pipeline.clean.safety import (
    TOXICITY_MODEL,
    Blocklist,
    Toxicity,
    plain,
    sentences_of,
    train_toxicity,
)
from data_pipeline.clean.url import UrlFilter
from data_pipeline.component import FrozenMap
from data_pipeline.documents.document import Document


def document(text: str, language: str = "", path: str = "p") -> Document:
    return Document("id", text, "web", path, "group", language)


@pytest.fixture
def blocklist(tmp_path):
    (tmp_path / "all.txt").write_text("# comment\nDamn\nson of a gun\n\n")
    (tmp_path / "ru.txt").write_text("чёрт\nчёрт возьми\n")
    return Blocklist(
        sources=("web",),
        files=FrozenMap({"": str(tmp_path / "all.txt"), "ru": str(tmp_path / "ru.txt")}),
        max_hits=2,
        max_hits_per_kword=5.0,
    )


def hits(rule: Blocklist, *documents: Document) -> list[float]:
    after, signals = rule.annotate(list(documents))
    assert after == list(documents)
    return signals["blocklist_hits"].tolist()


def test_whole_words_and_phrases_are_counted_in_any_case_and_punctuation(blocklist):
    assert hits(
        blocklist,
        document("DAMN! damn, the damned; Son\nof a... gun. A son of gun. goddamn"),
        document(""),
    ) == [3, 0]


def test_a_list_concerns_the_documents_of_its_language(blocklist):
    assert hits(
        blocklist,
        document("Чёрт возьми, damn!", "ru"),
        document("чёрт возьми, damn!", "en"),
        document("чёрт"),
    ) == [3, 1, 0]


def test_hits_are_related_to_a_thousand_words_and_limited_by_both(blocklist):
    _, signals = blocklist.annotate([document("damn " + "word " * 199), document("word")])
    assert signals["blocklist_hits_per_kword"].tolist() == [5, 0]
    assert [(limit.signal, limit.most) for limit in blocklist.limits()] == [
        ("blocklist_hits", 2),
        ("blocklist_hits_per_kword", 5),
    ]
    assert {"max_hits", "max_hits_per_kword"} == blocklist.LATE and not blocklist.EDITS


def test_a_changed_list_changes_the_fingerprint_and_a_missing_one_is_named(blocklist, tmp_path):
    before = blocklist.fingerprint()
    (tmp_path / "ru.txt").write_text("чёрт\nчёрт побери\n")
    assert blocklist.fingerprint() != before
    assert hits(blocklist, document("чёрт побери", "ru")) == [2]
    (tmp_path / "ru.txt").write_text("\n")
    with pytest.raises(ValueError, match="ru.txt' has no entry"):
        blocklist.annotate([document("x")])
    (tmp_path / "ru.txt").unlink()
    with pytest.raises(ValueError, match="ru.txt' cannot be read"):
        blocklist.fingerprint()


PROSE = """The function returns the number of items in the list. If the argument is negative, ValueError is raised.
It was a bright cold day in April, and the clocks were striking thirteen. She killed the process and went home to cook dinner."""
RUDE = "You are a stupid bitch and nobody likes you. Shut the fuck up you dumb hoe."
TOXICITY = Toxicity(sources=("web",), max_score=0.2)


def toxicity(*documents: Document) -> np.ndarray:
    after, signals = TOXICITY.annotate(list(documents))
    assert after == list(documents) and signals["toxicity"].dtype == np.float32
    return signals["toxicity"]


def test_the_shipped_classifier_tells_abuse_from_prose():
    prose, rude, mixed, russian = toxicity(
        document(PROSE),
        document(RUDE),
        document(PROSE + "\n" + RUDE),
        document("Обычный текст о погоде."),
    )
    assert prose < 0.1 and russian < 0.2 and rude > 0.7 and prose < mixed < rude


def test_the_shipped_classifier_is_the_one_described():
    # weights lie where the hashes of `ngrams.py` point: another hash, and this score is noise
    assert toxicity(document(PROSE + "\n" + RUDE))[0] == pytest.approx(0.260194, abs=1e-6)
    digest = hashlib.sha256(TOXICITY_MODEL.read_bytes()).hexdigest()
    assert (
        digest in TOXICITY_MODEL.with_suffix(".md").read_text()
        and TOXICITY_MODEL.stat().st_size < 300_000
    )


def test_a_document_in_a_batch_scores_as_alone_and_other_languages_and_blanks_are_not_measured():
    documents = [document(text) for text in (PROSE, "", RUDE, " \n\n ", "?!.", PROSE * 3)]
    together, alone = toxicity(*documents), [toxicity(one)[0] for one in documents]
    np.testing.assert_array_equal(together, alone)
    assert (
        np.isnan(together[[1, 3]]).all()
        and np.isnan(toxicity(document(RUDE, "ru"))[0])
        and toxicity(document(RUDE, "en"))[0] > 0.7
    )
    assert toxicity().tolist() == []


def test_a_threshold_is_a_limit_that_measures_nothing_anew():
    (limit,) = TOXICITY.limits()
    assert (
        (limit.signal, limit.most) == ("toxicity", 0.2)
        and {"max_score"} == TOXICITY.LATE
        and not TOXICITY.EDITS
    )


def test_anybody_can_train_another_model(tmp_path):
    rows = [
        f'{i},"@user you nasty {word} &amp; https://x/y",{label}'
        for i, (word, label) in enumerate([("toad", 0), ("pig", 1), ("friend", 2)] * 9)
    ]
    model = train_toxicity(["id,tweet,class", *rows], ["We met a friend.", "It is a nice day."])
    model.save(tmp_path / "own.npz")
    rule = Toxicity(sources=("web",), max_score=0.5, model=str(tmp_path / "own.npz"))
    bad, good = rule.annotate([document("You nasty toad."), document("A nice day, friend.")])[1][
        "toxicity"
    ]
    assert bad > 0.5 > good and rule.fingerprint() != TOXICITY.fingerprint()


def test_tweets_are_trained_on_without_the_marks_of_their_medium():
    assert (
        plain("RT @you: &#128514; look &amp;amp; see #this https://t.co/x !")
        == ": 😂 look & see this !"
    )


def test_sentences_lose_only_white_space():
    text = "Да? Нет!  One. 3.14 is\n\npi…  \n next"
    assert sentences_of(text) == ["Да?", "Нет!", "One.", "3.14 is", "pi…", "next"]
    assert "".join("".join(sentences_of(text)).split()) == "".join(text.split())


@pytest.fixture
def url_filter(tmp_path):
    (tmp_path / "domains").write_text("bad.com\n203.0.113.9\n")
    (tmp_path / "urls").write_text("fine.org/bad/page\n")
    (tmp_path / "hard").write_text("casino\n")
    (tmp_path / "soft").write_text("poker\nbet\nставка\n")
    files = {name: (str(tmp_path / name),) for name in ("domains", "urls", "hard", "soft")}
    return UrlFilter(
        sources=("web",),
        blocked=files["domains"] + files["urls"],
        hard_words=files["hard"],
        soft_words=files["soft"],
    )


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://bad.com/", (1, 0, 0)),
        ("HTTP://user@www.Sub.BAD.com:8080/x?y#z", (1, 0, 0)),
        ("https://203.0.113.9/x", (1, 0, 0)),
        ("https://notbad.com/bad.com", (0, 0, 0)),
        ("https://bad.com.fine.org/", (0, 0, 0)),
        ("https://fine.org/bad/page/", (1, 0, 0)),
        ("https://fine.org/bad/page/2", (0, 0, 0)),
        ("https://fine.org/casino-bet/ставка", (0, 1, 2)),
        ("https://fine.org/better/casinos", (0, 0, 0)),
        ("books/bad.com/casino.txt", (0, 0, 0)),
        ("https://[bad.com/casino", (0, 0, 0)),
        ("", (0, 0, 0)),
    ],
)
def test_addresses_are_judged_by_domain_page_and_whole_words(url_filter, url, expected):
    _, signals = url_filter.annotate([document("text", path=url)])
    assert tuple(values[0] for values in signals.values()) == expected
    assert list(signals) == [limit.signal for limit in url_filter.limits()]


def test_one_soft_word_is_allowed(url_filter):
    assert [limit.most for limit in url_filter.limits()] == [0, 0, 1] and len(
        url_filter.fingerprint().split()
    ) == 4
