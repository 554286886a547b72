"""What makes data says its VERSION, and makes other output only under another one: cached results are found
again by it.
"""

import json
from pathlib import Path

import pytest
from pydantic import BaseModel

from data_pipeline import settings
from data_pipeline.clean.quality import TooShort
from data_pipeline.component import components_in
from data_pipeline.readers.jsonl import Jsonl
from tests.data_pipeline.small_job import make_raw, prepare
from tests.golden.versions import GOLDEN, REWRITE, Output, outputs, problems, versioned

MAKE_DATA = (
    "readers",
    "clean",
    "tokenizers",
    "rows.pack",
)  # folders whose components all make data


@pytest.fixture(scope="module")
def golden() -> dict[str, list]:
    return json.loads(GOLDEN.read_text())


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Output]:
    with pytest.MonkeyPatch.context() as patch:
        # a classifier that was trained before would hide a change
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return outputs(tmp_path_factory.mktemp("inputs"))


@pytest.mark.parametrize("folder", MAKE_DATA)
def test_every_component_that_makes_data_says_its_version(folder):
    components = components_in(f"data_pipeline.{folder}").values()
    assert [
        c.__name__ for c in components if not isinstance(getattr(c, "VERSION", None), int)
    ] == []


def test_no_output_changes_under_the_same_version(golden, made):
    assert list(problems(golden, made)) == []


def test_the_golden_outputs_are_those_of_the_present_versions(golden, made):
    assert versioned() == set(made), (
        "tests/golden/versions.py makes an output of everything with a VERSION"
    )
    wrong = [name for name, output in made.items() if golden.get(name) != list(output)]
    assert wrong == [], f"a VERSION was raised or something is new: {REWRITE}"


def test_a_changed_output_is_told_with_its_remedy():
    before = {"clean.Pii": [3, "0" * 16]}
    (sentence,) = problems(before, {"clean.Pii": Output(3, "1" * 16)})
    assert "set its VERSION to 4 and run `python -m tests.golden.versions`" in sentence
    assert (
        list(problems(before, {"clean.Pii": Output(4, "1" * 16), "clean.New": Output(1, "2" * 16)}))
        == []
    )


def test_a_key_knows_type_version_and_fields_and_no_module_or_source_text():
    rule = TooShort(sources=("web",), min_words=30)
    described = settings.described(rule, without=("sources",))
    assert described == {
        "type": "TooShort",
        "version": 1,
        "content": "",
        "fields": {"min_words": 30},
    }

    class Later(TooShort):
        VERSION = 2

    Later.__name__ = "TooShort"
    assert settings.digest(settings.described(Later(**rule.model_dump()))) != settings.digest(
        described
    )


class Unversioned(BaseModel, frozen=True, extra="forbid", strict=True):
    """A user's component whose author did not know the rule."""

    sources: tuple[str, ...] = ("web",)


def test_a_component_without_a_version_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(ValueError, match="Unversioned has no VERSION.*write `VERSION: ClassVar"):
        settings.described(Unversioned())
    job = prepare(make_raw(tmp_path / "raw"))
    (problem,) = job.model_copy(update={"tokenizer": Unversioned()}).problems({})
    assert problem.startswith("tokenizer: Unversioned has no VERSION")


def test_only_the_pythons_own_corpora_depend_on_the_version_of_python(monkeypatch):
    monkeypatch.setattr("platform.python_version", lambda: "9.9.9")
    described = settings.described(Jsonl(paths=(str(Path("rows.jsonl")),)))
    assert "9.9.9" not in json.dumps([described, settings.library_versions()])
    for name in ("StdlibDocs", "StdlibCode", "Books"):
        component = components_in("data_pipeline.readers")[name]()
        assert settings.described(component)["content"] == "9.9.9"
