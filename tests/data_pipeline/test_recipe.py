"""Recipes: what passes them, and that code is still code afterwards."""

import ast

import pytest

from data_pipeline.clean.recipe import book_recipe, code_recipe, standard_recipe, web_recipe
from data_pipeline.clean.rule import Rule
from data_pipeline.documents.document import Document
from tests.data_pipeline.texts import ENGLISH, REAL, document

RECIPES = {
    "standard": standard_recipe(),
    "web": web_recipe(sources=("web",), languages=("en", "ru")),
    "code": code_recipe(sources=("code",)),
    "book": book_recipe(sources=("books",)),
}
CODE = 'def f(x):\r\n\t"""Double it."""\r\n\tif x:   \r\n\t\treturn 2 * x\r\n\treturn f(1) + 0  # the least it can be\r\n'
# Two sentences of fifty words and more.
TWO = (
    ENGLISH.replace("\n", " ").replace(". ", ", and ", 1).replace(". ", ", and ", 1).strip()
    + " And so on it goes.\n"
)
ARTICLE = (
    ENGLISH
    + "Its functions find the place of an item. They insert items too! Which of them is right depends on equal items.\n"
)


def passed(recipe: tuple[Rule, ...], read: Document) -> tuple[Document, str | None]:
    """The document as the recipe leaves it, and the reason for which it goes."""
    for rule in recipe:
        if read.source not in rule.sources:
            continue
        (read,), signals = rule.annotate([read])
        for limit in rule.limits():
            value = signals[limit.signal][0]
            if limit.language in ("", read.language) and (
                value < limit.least or value > limit.most
            ):
                return read, limit.reason
        if not read.text:
            return read, "empty"
    return read, None


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_rules_whose_limits_are_of_signals_they_measure(name):
    for rule in RECIPES[name]:
        assert isinstance(rule, Rule) and rule.LATE <= set(type(rule).model_fields)
        _, signals = rule.annotate([document(ENGLISH)])
        assert {limit.signal for limit in rule.limits()} <= set(signals) and all(
            len(values) == 1 for values in signals.values()
        )


def test_code_is_still_code_after_its_recipes():
    for name in ("standard", "code"):
        left, reason = passed(RECIPES[name], document(CODE, "python", "code", "f.py"))
        assert reason is None and ast.dump(ast.parse(left.text)) == ast.dump(ast.parse(CODE))


@pytest.mark.parametrize(
    ("name", "source", "text", "reason"),
    [
        ("standard", "web", ENGLISH, None),
        ("standard", "books", ENGLISH, None),
        ("standard", "books", REAL["ru"], "language"),
        ("standard", "code", "x = 1", "too_short"),
        ("standard", "web", "\x00", "empty"),
        ("standard", "elsewhere", "x", None),
        ("web", "web", ARTICLE, None),
        ("web", "web", REAL["ru"], None),
        ("web", "web", TWO, "few_sentences"),
        ("web", "web", REAL["zh"], "language"),
        ("book", "books", ARTICLE, None),
        ("book", "books", "\n\n".join([ENGLISH] * 3), "gopher_repeated_paragraph"),
    ],
)
def test_recipes_keep_good_text_and_name_why_the_rest_goes(name, source, text, reason):
    assert passed(RECIPES[name], document(text, "", source))[1] == reason
