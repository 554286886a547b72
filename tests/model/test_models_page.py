"""docs/models.md names what there is."""

import re
from collections import defaultdict

from data_pipeline.component import components_in
from model.execution import Execution
from tests.house.repository import ROOT
from tests.model.presets import presets

PAGE = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")


def test_the_page_has_every_family_with_its_presets_and_no_other():
    families = components_in("model.architectures")
    shown = defaultdict(set)
    for family, names in re.findall(r"^\| `(\w+)`.*? \| (.*?) \|", PAGE, re.MULTILINE):
        if family in families:
            shown[family] |= set(re.findall(r"`(\w+)`", names))
    expected = defaultdict(set)
    for name, sizes in presets().items():
        expected[type(sizes).__name__].add(name)
    assert shown == expected and expected.keys() == families.keys()


def test_the_page_has_the_error_of_every_reference_model():
    folders = {
        path.parent.name
        for path in (ROOT / "tests" / "data" / "hugging_face").glob("*/config.json")
    }
    assert set(re.findall(r"([a-z]\w+) \| \d\.\de-\d", PAGE)) == folders


def test_the_page_has_every_kernel_that_can_be_asked_for():
    kernels = set(Execution.model_fields["attention"].annotation.__args__) - {"auto"}
    assert all(f"| `{name}`" in PAGE for name in kernels)
