"""Language identification: the library's own answers, several languages allowed, and the name written on
the document.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from data_pipeline.clean.identify import classify
from data_pipeline.clean.language import Language
from tests.data_pipeline.texts import (
    ENGLISH,
    LAW,
    REAL,
    TEXTS,
    assert_alone_as_in_a_batch,
    document,
    documents_of,
    verdict,
)

RULE = Language(sources=("web",), languages=("en", "ru"), first_chars=800)
GERMAN = (
    "Das Modul hält eine Liste in sortierter Reihenfolge, ohne dass sie nach jedem Einfügen neu sortiert werden muss.\n"
    * 3
)


@pytest.fixture(scope="module")
def library() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@LAW
@given(
    texts=st.lists(
        st.one_of(
            st.text(max_size=30), st.sampled_from([*REAL.values(), GERMAN, ENGLISH.upper(), ""])
        ),
        max_size=6,
    )
)
def test_many_texts_at_once_get_the_librarys_answers(library, texts):
    for text, (language, probability) in zip(texts, classify(texts), strict=True):
        scores = dict(library.rank(text))
        assert (
            probability
            == pytest.approx(max(scores.values()), abs=1e-3)
            == pytest.approx(scores[language], abs=1e-3)
        )


@LAW
@given(TEXTS)
def test_a_document_is_measured_alone(pairs):
    assert_alone_as_in_a_batch(RULE, documents_of(pairs))


@pytest.mark.parametrize(
    ("text", "language", "reason"),
    [(ENGLISH, "en", None), (REAL["ru"], "ru", None), (GERMAN, "de", "language")],
)
def test_documents_in_the_languages_stay_and_every_one_is_named(text, language, reason):
    (named,), _ = RULE.annotate([document(text, "")])
    assert named.language == language and named.text == text
    assert verdict(RULE, text)[1] == reason


def test_the_least_probability_is_late():
    assert verdict(RULE, "and на", "")[1] == "language"
    assert verdict(RULE.model_copy(update={"min_probability": 1e-9}), ENGLISH[:20], "")[1] is None
    assert Language.LATE == {"min_probability"}


def test_an_unknown_language_is_one_clear_error():
    with pytest.raises(
        ValueError,
        match="languages='klingon' is none that py3langid knows; give ISO 639-1 codes such as 'en'",
    ):
        Language(sources=("web",), languages=("klingon",), first_chars=800).annotate(
            [document(ENGLISH)]
        )
