"""Laws of every cleaning rule in the recipes."""

import numpy as np
import pytest

from data_pipeline.clean.recipe import book_recipe, code_recipe, standard_recipe, web_recipe
from data_pipeline.clean.rule import AcrossRule, Rule
from data_pipeline.documents.document import Document, content_id
from data_pipeline.documents.drops import NOT_DOCUMENTS

TEXTS = (
    "",
    "one",
    "Zwölf Boxkämpfer jagen Viktor.\n\nquer über den Deich\n",
    "x = 1  # a comment\n" * 9,
    "Съешь же ещё этих булок. " * 40,
)
RULES = {
    type(rule).__name__: rule
    for rules in (
        standard_recipe(),
        web_recipe(sources=("web",)),
        code_recipe(sources=("code",)),
        book_recipe(sources=("books",)),
    )
    for rule in rules
}
each_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


def documents() -> list[Document]:
    return [
        Document(content_id(text), text, "web", f"{i}.html", str(i), "en")
        for i, text in enumerate(TEXTS)
    ]


@each_rule
def test_it_is_a_rule_whose_late_fields_are_its_own(rule):
    assert isinstance(rule, Rule) and rule.LATE <= type(rule).model_fields.keys()


@each_rule
def test_reasons_count_documents_and_limits_name_signals_that_are_measured(rule):
    _, signals = rule.annotate(documents())
    for limit in rule.limits():
        assert not limit.reason.endswith(NOT_DOCUMENTS) and limit.signal in signals
    assert isinstance(rule, AcrossRule) or rule.limits() or rule.EDITS


@each_rule
def test_a_document_is_measured_alone_as_among_others_and_keeps_its_id(rule):
    whole, signals = rule.annotate(documents())
    assert [document.id for document in whole] == [document.id for document in documents()]
    for i, document in enumerate(documents()):
        alone, measured = rule.annotate([document])
        assert alone == [whole[i]] and measured.keys() == signals.keys()
        assert all(
            np.array_equal(
                np.asarray(measured[name][0]), np.asarray(signals[name][i]), equal_nan=True
            )
            for name in signals
        )


@each_rule
def test_only_a_rule_that_edits_rewrites(rule):
    assert rule.EDITS or rule.annotate(documents())[0] == documents()


@each_rule
def test_another_late_field_measures_the_same(rule):
    for name in rule.LATE:
        value = getattr(rule, name)
        if isinstance(value, float):
            changed = rule.model_copy(update={name: value / 2})
            before, after = rule.annotate(documents())[1], changed.annotate(documents())[1]
            assert before.keys() == after.keys()
            # A rule across documents has a list of keys for each.
            assert all(
                np.array_equal(np.asarray(one), np.asarray(other), equal_nan=True)
                for k in before
                for one, other in zip(before[k], after[k], strict=True)
            )
