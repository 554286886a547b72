"""Language identification: the library's own answers, several languages allowed, and the name written on
the document.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from data_pipeline.clean.fineweb import FineWeb
from data_pipeline.clean.identify import classify
from data_pipeline.clean.language import Language
from data_pipeline.clean.languages import LANGUAGES
from data_pipeline.clean.quality import GopherQuality
from data_pipeline.clean.repetition import GopherRepetition
from data_pipeline.clean.rule import UNKNOWN
from data_pipeline.stages.judge import concerned
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


@pytest.mark.parametrize("rule", [FineWeb, GopherRepetition, GopherQuality])
def test_a_text_of_no_known_language_is_held_to_the_strictest_limits(rule):
    limits = rule(sources=("web",)).limits()
    names = np.array(["", "und", "no-such", "pl", *LANGUAGES], object)
    for strictest in (limit for limit in limits if limit.language == UNKNOWN):
        own = [limit for limit in limits if limit.signal == strictest.signal]
        assert strictest.least == max(limit.least for limit in own)
        assert strictest.most == min(limit.most for limit in own)
        # Polish is a known language without an entry, which the loosest limit is for.
        assert concerned(strictest, names).tolist() == [True] * 3 + [False] * (len(names) - 3)
    named = {limit.signal for limit in limits if limit.language}
    unknown = {limit.signal for limit in limits if limit.language == UNKNOWN}
    # The lengths of words in all scripts have nothing in common.
    assert unknown and named - unknown <= {"mean_word_chars"}
