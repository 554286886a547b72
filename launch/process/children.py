"""How this program starts itself once more, so that a file of the user's called model.py or launch.py in the
working directory does not stand in for one of ours.
"""

import os
import shlex
import shutil
import site
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]  # the folder that holds our rooms: a clone, or site-packages


def own_command(words: Sequence[str]) -> list[str]:
    """The command `meshwright WORDS`, by this Python."""
    # -P: without it the working directory comes first in sys.path.
    return [sys.executable, "-P", "-m", "launch", *words]


def typed_command(words: Sequence[str | Path]) -> str:
    """What a person types in this folder for `meshwright WORDS`; a word without spaces stays as it is."""
    # Beside this Python, as pip puts it; not resolved, since a venv's Python is a link.
    script = Path(sys.executable).parent / "meshwright"
    on_path = shutil.which("meshwright")
    # Another installation may stand on PATH under the same name.
    if on_path and (not script.exists() or Path(on_path).samefile(script)):
        name = "meshwright"
    elif script.exists():
        here = Path.cwd()
        name = str(script.relative_to(here)) if script.is_relative_to(here) else str(script)
    else:
        return shlex.join([sys.executable, "-m", "launch", *map(str, words)])
    return shlex.join([name, *map(str, words)])


def own_environment() -> dict[str, str]:
    """Variables that `own_command` needs beside those of this process."""
    if str(ROOT) in [*site.getsitepackages(), site.getusersitepackages()]:
        return {}
    # A clone need not be installed: then only the working directory has made it importable so far.
    paths = (str(ROOT), os.environ.get("PYTHONPATH", ""))
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def keep_out_working_directory() -> None:
    """Processes that libraries start (daft's workers, say) do not look for modules in the working directory,
    nor does this one if it does not hold our rooms.
    """
    os.environ["PYTHONSAFEPATH"] = "1"
    os.environ.update(own_environment())
    here = os.getcwd()
    if sys.flags.safe_path or here == str(ROOT):
        return
    # `python -m launch` puts it first, as "" or by name; a console script does not.
    if sys.path and sys.path[0] in ("", here):
        del sys.path[0]
