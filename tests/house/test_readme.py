"""The README's tree shows every folder of the rooms, and its reading path is short."""

import re
from pathlib import Path

from tests.house.repository import ROOMS, ROOT, sources
from tests.house.test_sizes import token_lines

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


def reading_path() -> list[Path]:
    """The files of the path; each is named from the folder of the one before, or from one above it."""
    path: list[Path] = []
    folder = ROOT
    for name in re.findall(r"([\w/]+\.py)", README.split("Reading path")[1].split("\n\n")[0]):
        bases = [base for base in (folder, *folder.parents) if base.is_relative_to(ROOT)]
        path.append(next(base / name for base in bases if (base / name).exists()))
        folder = path[-1].parent
    return path


def test_the_reading_path_takes_twenty_minutes():
    texts = [file.read_text(encoding="utf-8") for file in reading_path()]
    assert len(texts) == 13
    assert sum(len(text.splitlines()) for text in texts) <= 1200
    assert sum(len(token_lines(text)) for text in texts) <= 9000
