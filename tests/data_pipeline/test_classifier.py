"""The linear classifier and the rule that keeps the texts most like good examples."""

import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.clean.classifier import load, sigmoid, train_classifier
from data_pipeline.clean.ngrams import CHUNK_CHARS, ngrams
from data_pipeline.clean.quality_classifier import PASSAGE_CHARS, QualityClassifier, passages_of
from data_pipeline.documents.document import Document

GOOD = "the proof follows from the theorem|каждое доказательство следует из теоремы|we measure the result and explain it"
BAD = "click here to win now|купите сейчас дешево звоните|best cheap deals buy buy"


def made_up(phrases: str, n: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    words = [phrase.split() for phrase in phrases.split("|")]
    return [" ".join(rng.choice(phrase) for phrase in rng.choices(words, k=12)) for _ in range(n)]


def document(text: str, n: int = 0) -> Document:
    return Document(f"{n:016x}", text, "web", "p", "g")


@pytest.fixture(scope="module")
def classifier():
    return train_classifier(made_up(GOOD, 40, 0), made_up(BAD, 40, 1))


def test_it_tells_new_texts_of_both_classes_apart(classifier):
    good, bad = classifier.logits(made_up(GOOD, 50, 2)), classifier.logits(made_up(BAD, 50, 3))
    assert good.min() > 0 > bad.max()
    assert 0 < sigmoid(bad).max() < 0.5 < sigmoid(good).min() < 1


def test_retraining_gives_the_same_bytes_whatever_the_order_and_repeats(classifier):
    good, bad = made_up(GOOD, 40, 0), made_up(BAD, 40, 1)
    again = train_classifier([*reversed(good), *good[:7]], iter(bad[::-1]))
    assert again.data() == classifier.data()


def test_a_saved_classifier_scores_the_same(classifier, tmp_path):
    classifier.save(tmp_path / "model.npz")
    assert (tmp_path / "model.npz").read_bytes() == classifier.data() and len(
        classifier.data()
    ) < 150_000
    texts = made_up(GOOD, 5, 4)
    assert load(tmp_path / "model.npz").logits(texts).tolist() == classifier.logits(texts).tolist()


@settings(max_examples=50)
@given(st.lists(st.text("abзж ,.\n\0東京९É", max_size=30), max_size=6))
def test_the_score_of_a_text_does_not_depend_on_its_batch(classifier, texts):
    assert classifier.logits(texts).tolist() == [classifier.logits([text])[0] for text in texts]


def test_words_are_the_same_in_any_case_and_punctuation_and_pairs_know_their_order():
    def hashes(text: str) -> list[list[int]]:
        return [order.hashes.tolist() for orders in ngrams([text], 2) for order in orders]

    assert hashes("Хорошо, мир!  Да") == hashes("хорошо мир\nДА") and len(hashes("a b c")[1]) == 2
    assert hashes("a b")[1] != hashes("b a")[1] and hashes("a b")[0] != hashes("ab")[0]
    (words, pairs) = hashes("x" * 7 + " " + "y" * 5)
    assert len(set(words)) == 2 and not set(words) & set(pairs)
    assert hashes("東京") == hashes("東 京")  # written without spaces: a character a word


def test_pairs_do_not_reach_from_text_to_text_and_long_texts_are_counted_whole():
    texts = ["a b", "c", "", "d e f " * (CHUNK_CHARS // 4), "g"]
    words, pairs = np.zeros(5, int), np.zeros(5, int)
    for orders in ngrams(texts, 2):
        words += np.bincount(orders[0].text, minlength=5)
        pairs += np.bincount(orders[1].text, minlength=5)
    n = 3 * (CHUNK_CHARS // 4)
    assert words[[0, 1, 2, 4]].tolist() == [2, 1, 0, 1] and pairs[[0, 1, 2, 4]].tolist() == [
        1,
        0,
        0,
        0,
    ]
    assert n <= words[3] <= n + 2 and n - 3 <= pairs[3] <= n  # a cut may part a word


def test_one_class_without_words_is_refused():
    with pytest.raises(ValueError, match="negative has no text with a word"):
        train_classifier(["good"], ["...", ""])


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 cut short", b"hello"])
def test_a_damaged_model_file_is_named(data, tmp_path, classifier):
    path = tmp_path / "model.npz"
    for content in (data, classifier.data()[:-900]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="model.npz.*LinearClassifier.save"):
            load(path)


@pytest.fixture
def rule(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "good").mkdir()
    (tmp_path / "bad" / "deep").mkdir(parents=True)
    for i, text in enumerate(made_up(GOOD, 30, 0)):
        (tmp_path / "good" / f"{i}.txt").write_text(text)
    (tmp_path / "bad" / "deep" / "x.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in made_up(BAD, 30, 1))
    )
    return QualityClassifier(
        sources=("web",),
        positive=str(tmp_path / "good"),
        negative=str(tmp_path / "bad"),
        keep_frac=0.25,
    )


def test_quality_ranks_like_the_examples_and_keeps_by_a_quantile(rule):
    documents = [document(text) for text in (*made_up(GOOD, 10, 5), *made_up(BAD, 30, 6), "")]
    after, signals = rule.annotate(documents)
    scores = signals["quality_score"]
    assert after == documents and scores.dtype == np.float32
    assert scores[:10].min() > scores[10:40].max() and np.isnan(scores[40])
    (limit,) = rule.limits()
    assert limit.signal == "quality_score" and limit.quantile == 0.75 and {"keep_frac"} == rule.LATE


def test_examples_decide_the_fingerprint_and_their_names_do_not(rule, tmp_path):
    before = rule.fingerprint()
    (tmp_path / "good" / "0.txt").rename(tmp_path / "good" / "renamed.txt")
    assert rule.fingerprint() == before
    (tmp_path / "good" / "new.txt").write_text("another example")
    assert rule.fingerprint() != before


def test_a_trained_classifier_is_kept_under_the_hash_of_its_examples(rule, tmp_path):
    texts = [document("the theorem")]
    first = rule.annotate(texts)[1]["quality_score"]
    (kept,) = (tmp_path / "cache").rglob("*.npz")
    data = kept.read_bytes()
    (tmp_path / "good" / "new.txt").write_text("купите купите " * 50)
    assert rule.annotate(texts)[1]["quality_score"] != first
    assert len(list((tmp_path / "cache").rglob("*.npz"))) == 2 and kept.read_bytes() == data


def test_folders_without_examples_or_with_broken_ones_are_named(rule, tmp_path):
    (tmp_path / "bad" / "y.jsonl").write_text('{"body": "x"}\n')
    with pytest.raises(ValueError, match="bad' holds a file that cannot be read"):
        rule.annotate([document("x")])
    empty = rule.model_copy(update={"negative": str(tmp_path / "none")})
    with pytest.raises(ValueError, match="negative=.*none' holds no .txt or .jsonl file"):
        empty.annotate([document("x")])


@given(st.text(max_size=3 * PASSAGE_CHARS))
@settings(max_examples=20)
def test_passages_are_the_text(text):
    assert "".join(passages_of(text)) == text and all(passages_of(text))
