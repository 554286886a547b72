"""Overrides change the tree where they say, and nothing else."""

from copy import deepcopy

from hypothesis import given
from hypothesis import strategies as st

from launch.job.overrides import override

TREE = {
    "data": {"steps": 3, "parts": [{"name": "a"}, {"name": "b"}], "none": None},
    "train": {"lr": 0.1},
}


def changed(*settings):
    tree = deepcopy(TREE)
    return override(tree, settings), tree


def test_only_the_named_field_changes():
    problems, tree = changed("data.parts.1.name=c")
    assert problems == [] and tree == {
        **TREE,
        "data": {**TREE["data"], "parts": [{"name": "a"}, {"name": "c"}]},
    }


def test_a_value_may_hold_equals_signs_and_be_empty():
    assert changed("train.lr='a=b'")[1]["train"]["lr"] == "a=b"
    assert changed("train.lr=")[1]["train"]["lr"] is None


def test_a_null_becomes_a_mapping_when_a_field_of_it_is_set():
    assert changed("data.none.x=1")[1]["data"]["none"] == {"x": 1}


def test_a_whole_list_or_an_entry_is_replaced():
    assert changed("data.parts=[]")[1]["data"]["parts"] == []
    assert changed("data.parts.0={name: z}")[1]["data"]["parts"][0] == {"name": "z"}


def test_every_setting_that_cannot_be_applied_is_told():
    problems, tree = changed(
        "steps", "a.=1", "nix.x=1", "data.parts.x.name=1", "train.lr.x.y=1", "data.steps=["
    )
    assert len(problems) == 6 and tree == TREE


def test_a_star_sets_the_field_in_every_phase_that_has_it():
    problems, tree = changed("*.lr=2", "*.nix=1")
    assert tree == {**TREE, "train": {"lr": 2}}
    (problem,) = problems
    assert problem.startswith("*.nix: no phase has the field nix; ")


@given(st.text(), st.text())
def test_no_text_crashes(path, value):
    problems, tree = changed(f"{path}={value}", f"data.{path}={value}")
    assert isinstance(problems, list)
