"""Laws of components: frozen values, equal after a round trip, strict about types, helpful about names."""

import datetime
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from data_pipeline.component import FrozenMap, PathText, components_in, imported_by_user, one_of


class Near(BaseModel, frozen=True, extra="forbid", strict=True):
    """Takes every kind of leaf."""

    rate: float
    count: int = 1
    flag: bool = False
    name: str = ""
    shape: tuple[int, ...] = ()
    weights: FrozenMap[str, float] = FrozenMap()


class Neat(BaseModel, frozen=True, extra="forbid", strict=True):
    """Another one."""

    inner: one_of("tests.data_pipeline.test_component")


class Thawed(BaseModel):
    """Not frozen: no component."""


class Holder(BaseModel, frozen=True, extra="forbid", strict=True):
    part: one_of("tests.data_pipeline.test_component")


PARTS = TypeAdapter(one_of("tests.data_pipeline.test_component"))
maps = st.dictionaries(st.text(max_size=3), st.integers(), max_size=5)


@given(items=maps)
def test_a_frozen_map_is_the_mapping_it_was_made_from_in_the_same_order(items):
    frozen = FrozenMap(items)
    assert (
        dict(frozen) == items
        and list(frozen) == list(items)
        and len(frozen) == len(items)
        and frozen == items
    )
    assert all(frozen[key] == items[key] for key in items)


@given(items=maps, data=st.data())
def test_equal_frozen_maps_have_equal_hashes_in_whatever_order_they_were_written(items, data):
    shuffled = data.draw(st.permutations(list(items.items())))
    assert FrozenMap(items) == FrozenMap(dict(shuffled))
    assert hash(FrozenMap(items)) == hash(FrozenMap(dict(shuffled)))


def test_a_frozen_map_cannot_be_changed_by_anybody():
    source = {"a": 1}
    frozen = FrozenMap(source)
    source["a"] = 2
    assert frozen["a"] == 1
    with pytest.raises(TypeError):
        frozen["a"] = 3
    with pytest.raises(KeyError):
        frozen["b"]


def test_components_are_hashable_and_equal_by_value():
    parts = [Near(rate=1.0, weights={"a": 1.0, "b": 2.0}, shape=(2, 3)) for _ in range(2)]
    assert parts[0] == parts[1] and len({*parts}) == 1
    with pytest.raises(ValidationError):
        parts[0].rate = 2.0


@given(
    rate=st.floats(allow_nan=False, allow_infinity=False),
    shape=st.lists(st.integers(), max_size=3).map(tuple),
    weights=st.dictionaries(
        st.text(max_size=3), st.floats(allow_nan=False, allow_infinity=False), max_size=3
    ),
    name=st.text(max_size=5),
)
def test_a_component_is_equal_after_a_round_trip_through_json_in_python_and_nested(
    rate, shape, weights, name
):
    part = Neat(inner=Near(rate=rate, shape=shape, weights=weights, name=name))
    written = PARTS.dump_python(part, mode="json")
    assert written["type"] == "Neat" and written["inner"]["type"] == "Near"
    assert PARTS.validate_python(written) == part
    assert PARTS.validate_python(json.loads(json.dumps(written))) == part
    assert Holder.model_validate(Holder(part=part).model_dump(mode="json")) == Holder(part=part)


@pytest.mark.parametrize("name", ["Naer", "Nearr", "near"])
def test_an_unknown_type_names_the_nearest(name):
    with pytest.raises(ValidationError, match=f"type='{name}' is unknown; nearest: Near"):
        PARTS.validate_python({"type": name, "rate": 1.0})


def test_a_type_like_no_other_names_them_all():
    with pytest.raises(ValidationError, match="type='Qx!' is unknown; nearest: Holder, Near, Neat"):
        PARTS.validate_python({"type": "Qx!"})


@pytest.mark.parametrize("value", [{"rate": 1.0}, "Near", None, 3, ["Near"]])
def test_what_has_no_type_is_told_which_there_are(value):
    with pytest.raises(
        ValidationError, match="must be a mapping with `type: Holder | Near | Neat`"
    ):
        PARTS.validate_python(value)


@pytest.mark.parametrize("name", [["Near"], {"Near": 1}, 3, None, True])
def test_a_type_that_is_no_name_is_an_error_of_the_users(name):
    with pytest.raises(ValidationError, match="is unknown; nearest: "):
        PARTS.validate_python({"type": name, "rate": 1.0})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rate", "1.0"),
        ("rate", True),
        ("rate", None),
        ("count", 1.0),
        ("count", "1"),
        ("count", True),
        ("flag", 1),
        ("flag", "true"),
        ("name", 1),
        ("shape", [1.0]),
        ("shape", "12"),
        ("weights", {"a": "1"}),
        ("weights", {"a": True}),
        ("weights", [["a", 1.0]]),
        ("rates", 1.0),
    ],
)
def test_nothing_is_coerced_and_the_field_is_named(field, value):
    with pytest.raises(ValidationError) as error:
        Holder.model_validate({"part": {"type": "Near", "rate": 1.0, field: value}})
    assert {problem["loc"][:2] for problem in error.value.errors()} == {("part", field)}


def test_an_integer_may_stand_for_a_float_and_a_list_for_a_tuple():
    part = PARTS.validate_python({"type": "Near", "rate": 1, "shape": [2, 3], "weights": {"a": 2}})
    assert part == Near(rate=1.0, shape=(2, 3), weights={"a": 2.0})
    assert type(part.rate) is float and type(part.weights["a"]) is float


def test_all_problems_are_reported_together_with_their_places():
    with pytest.raises(ValidationError) as error:
        Holder.model_validate(
            {
                "part": {
                    "type": "Neat",
                    "inner": {"type": "Near", "rate": "x", "count": 1.5, "more": 1},
                }
            }
        )
    assert {problem["loc"] for problem in error.value.errors()} == {
        ("part", "inner", name) for name in ("rate", "count", "more")
    }


def test_a_date_in_yaml_is_its_text_and_no_error_of_ours():
    assert (
        PARTS.validate_python(
            {"type": "Near", "rate": 1.0, "name": datetime.date(2026, 11, 22)}
        ).name
        == "2026-11-22"
    )
    with pytest.raises(ValidationError, match="rate"):
        PARTS.validate_python({"type": "Near", "rate": datetime.date(2026, 11, 22)})


def test_a_component_of_another_place_is_refused():
    with pytest.raises(
        ValidationError,
        match="Thawed is no component of tests.data_pipeline.test_component; there are Holder, Near, Neat",
    ):
        PARTS.validate_python(Thawed())


def test_components_are_the_frozen_models_defined_in_a_place_and_those_of_the_user():
    assert set(components_in("tests.data_pipeline.test_component")) == {"Near", "Neat", "Holder"}
    assert {"NextToken", "DPO"} <= set(components_in("trainer.objectives"))
    assert "Full" in components_in("model.adapt") and "Near" not in components_in("model.adapt")
    imported_by_user.append("tests.data_pipeline.test_component")
    try:
        assert "Near" in components_in("model.adapt")
    finally:
        imported_by_user.remove("tests.data_pipeline.test_component")


def test_a_path_begins_at_home_where_it_is_written_so(monkeypatch):
    monkeypatch.setenv("HOME", "/at/home")
    read = TypeAdapter(PathText | None).validate_python
    assert read("~/runs/a") == "/at/home/runs/a" and read("data/~x") == "data/~x"
    assert read(None) is None
