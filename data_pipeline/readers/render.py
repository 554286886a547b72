"""Module name → pydoc HTML page; runs in a child process, because importing a module can do anything.
Standard library only.

The page is the same on every machine with the same Python: no file paths, no memory addresses, no
environment. Members that a class
inherits are left out: every class would repeat those of `object`, every exception those of `BaseException`.
"""

import importlib
import os
import pydoc
import re
import sys
import sysconfig
import warnings

# Links to the index and to this machine's source file.
NAVIGATION = re.compile(r'<td class="extra">.*?</td>', re.DOTALL)
# Memory addresses differ from run to run; the form with "handle" is that of ctypes.
ADDRESS = re.compile(r"(?: |&nbsp;)(?:at(?: |&nbsp;)0x|handle(?: |&nbsp;))[0-9a-fA-F]{4,}")
# Values in `sys` that tell other installed packages, or the date of the build.
VOLATILE = frozenset({"meta_path", "path_hooks", "version", "flags", "modules"})
OWN_MEMBERS = pydoc.classify_class_attrs


def render(name: bytes) -> bytes:
    """The UTF-8 page of the module called `name`."""
    os.environ.clear()  # else the page of `os` shows it
    sys.argv[:] = ["pydoc"]
    pydoc.classify_class_attrs = own_members
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = importlib.import_module(name.decode())
        document = Page().document(module, name.decode())
        page = Page().page(pydoc.describe(module), document)
    # It is the default of an argument of `platform.architecture`.
    page = page.replace(sys.executable, "python")
    return ADDRESS.sub("", NAVIGATION.sub("<td></td>", page)).encode(errors="replace")


def own_members(cls: type) -> list[tuple]:
    """pydoc's classification of a class's attributes, of those it defines itself."""
    return [member for member in OWN_MEMBERS(cls) if member[2] is cls]


class Page(pydoc.HTMLDoc):
    """pydoc's page without data that differs from machine to machine."""

    def docother(self, object, name=None, mod=None, *ignored):
        """One entry of a DATA section; empty where the value holds a path of this installation."""
        try:
            shown = repr(object)
        except Exception as error:
            shown = f"<{type(error).__name__}>"
        # Any value that shows a path of this machine would make the corpus differ from machine to machine.
        hidden = name in VOLATILE or any(place in shown for place in machine_paths())
        return "" if hidden else super().docother(object, name, mod)


def machine_paths() -> tuple[str, ...]:
    """Folders of this installation and of the person who runs it."""
    places = {
        sys.prefix,
        sys.base_prefix,
        sys.exec_prefix,
        os.path.expanduser("~"),
        os.getcwd(),
        *sysconfig.get_paths().values(),
    }
    return tuple(place for place in places if len(place) > 1)
