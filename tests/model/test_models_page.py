"""docs/models.md names what there is."""

import re
import sys

from data_pipeline.component import components_in
from model.execution import Execution
from tests.house.repository import ROOT

PAGE = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")


def test_the_page_has_every_family_with_its_presets_and_no_other():
    rows = {
        row[0]: set(re.findall(r"`(\w+)`", row[1]))
        for row in re.findall(r"^\| `(\w+)` \| (.*?) \|", PAGE, re.MULTILINE)
    }
    families = components_in("model.architectures").values()
    presets = {family.__name__: set(sys.modules[family.__module__].PRESETS) for family in families}
    assert {name: rows.get(name) for name in presets} == presets


def test_the_page_has_the_error_of_every_reference_model():
    folders = {path.parent.name for path in (ROOT / "tests" / "data" / "hugging_face").glob("*/config.json")}
    assert set(re.findall(r"([a-z]\w+) \| \d\.\de-\d", PAGE)) == folders


def test_the_page_has_every_kernel_that_can_be_asked_for():
    kernels = set(Execution.model_fields["attention"].annotation.__args__) - {"auto"}
    assert all(f"| `{name}`" in PAGE for name in kernels)
