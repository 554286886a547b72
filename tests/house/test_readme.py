"""The README's tree and reading path are the repository's."""

import re
from pathlib import Path

from tests.house.repository import ROOMS, ROOT, sources

README = (ROOT / "README.md").read_text(encoding="utf-8")
TREE = README.split("How it is built")[1].split("Reading path")[0]


def test_the_tree_names_every_file_of_the_rooms():
    names = {Path(path).name for path in sources(*ROOMS)} - {"__init__.py"}
    assert sorted(names - set(re.findall(r"\w+\.py", TREE))) == []


def test_the_tree_names_no_file_that_is_not_there():
    names = {Path(path).name for path in sources(*ROOMS)}
    assert sorted(set(re.findall(r"\w+\.py", TREE)) - names) == []


def test_the_reading_path_takes_twenty_minutes():
    step = README.split("Reading path")[1].split("\n- ")[0]
    by_name = {Path(path).name: ROOT / path for path in sources(*ROOMS)}
    path = [ROOT / "trainer/run.py" if name == "run.py" else by_name[name] for name in re.findall(r"(\w+\.py)", step)]
    assert len(path) >= 10
    assert sum(len(file.read_text(encoding="utf-8").splitlines()) for file in path) <= 1300
