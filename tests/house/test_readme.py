"""The README's tree shows every folder of the rooms, and its reading path is short."""

import re
from pathlib import Path

from tests.house.repository import ROOMS, ROOT, sources

README = (ROOT / "README.md").read_text(encoding="utf-8")
TREE = README.split("How it is built")[1].split("Reading path")[0]


def shown_folders() -> set[str]:
    """The folders in the tree; an indented one lies in the room above it."""
    found = set()
    room = ""
    for indent, name in re.findall(r"^( *)(\w+)/  ", TREE, re.MULTILINE):
        room = room if indent else name
        found.add(f"{room}/{name}" if indent else name)
    return found


def test_the_tree_shows_the_folders_that_there_are():
    folders = {path.rpartition("/")[0] for path in sources(*ROOMS)}
    top_two_levels = {"/".join(folder.split("/")[:2]) for folder in folders}
    assert shown_folders() == top_two_levels | {"tests"}


def test_the_reading_path_takes_twenty_minutes():
    step = README.split("Reading path")[1].split("\n\n")[0]
    by_name = {Path(path).name: ROOT / path for path in sources(*ROOMS)}
    path = [
        ROOT / "trainer/run.py" if name == "run.py" else by_name[name]
        for name in re.findall(r"(\w+\.py)", step)
    ]
    assert len(path) >= 10
    assert sum(len(file.read_text(encoding="utf-8").splitlines()) for file in path) <= 1500
