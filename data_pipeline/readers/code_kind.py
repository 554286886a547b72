"""Files in a source tree that nobody wrote there: vendored, generated, minified; each told by its path or
by its head.
"""

import re
from typing import Literal

Kind = Literal["git_ignored", "vendored", "generated", "minified"]
KINDS: tuple[Kind, ...] = ("git_ignored", "vendored", "generated", "minified")

VENDORED_FOLDERS = frozenset(
    """bower_components carthage extern externals _externals godeps jspm_packages node_modules pods vendor vendored vendors _vendor
    _vendored _vendors third_party third-party thirdparty 3rdparty 3rd_party site-packages dist-packages _bundled""".split()
)
LOCK_FILES = frozenset(
    """bun.lock cargo.lock composer.lock flake.lock gemfile.lock go.sum gradle.lockfile mix.lock npm-shrinkwrap.json package-lock.json
    packages.lock.json pdm.lock pipfile.lock pnpm-lock.yaml podfile.lock poetry.lock pubspec.lock pylock.toml uv.lock yarn.lock""".split()
)
GENERATED_NAME = re.compile(
    r"_pb2(?:_grpc)?\.pyi?$|\.pb(?:\.gw|_grpc)?\.(?:go|cc|h)$|_grpc\.pb\.|\.(?:pb|freezed|g)\.dart$|\.pbxproj$|\.designer\.(?:cs|vb)$|"
    r"\.g\.cs$|_generated\.\w+$|\.generated\.\w+$|\.tab\.[ch]$|(?:^|/)lex\.yy\.c$|\.(?:js|css)\.map$",
    re.IGNORECASE,
)
MINIFIED_NAME = re.compile(r"[.-]min\.(?:[cm]?js|css)$", re.IGNORECASE)
COMMENT = re.compile(r"\s*(?:#|//|/\*|\*|--|;|%|<!--|\(\*|\"\"\"|'''|rem\b|dnl\b)", re.IGNORECASE)
GENERATED = re.compile(
    r"@generated\b|\bdo not (?:edit|modify)\b(?!\s+the\s+following)|\b(?:auto-?|automatically |machine[ -])generated\b|"
    r"^\W*(?:this (?:\w+ )?(?:file|code|module|table|script|class|source) (?:was|is|has been) )?generated (?:by|from|with|using)\b",
    re.IGNORECASE,
)
HEAD_LINES, HEAD_CHARS = 25, 4_000
MINIFIABLE = frozenset(("javascript", "css"))
MEAN_LINE_CHARS = 110  # of JavaScript and CSS: github-linguist's rule
MAX_LINE_CHARS = 100_000  # of any language: StarCoder 2 (Lozhkov et al. 2024, §2.2)


def kind_of_path(path: str) -> Kind | None:
    """What the path inside the tree tells: vendored by a folder, generated or minified by the name; None =
    nothing.
    """
    *folders, name = path.split("/")
    if any(folder.lower() in VENDORED_FOLDERS for folder in folders):
        return "vendored"
    if name.lower() in LOCK_FILES or GENERATED_NAME.search(name):
        return "generated"
    return "minified" if MINIFIED_NAME.search(name) else None


def kind_of_text(text: str, language: str) -> Kind | None:
    """What the text tells: a comment in its head that says a program wrote it, or lines that no person
    writes; None = nothing.
    """
    head = text[:HEAD_CHARS].splitlines()[:HEAD_LINES]
    if any(COMMENT.match(line) and GENERATED.search(line) for line in head):
        return "generated"
    n_lines = text.count("\n") + 1
    if language in MINIFIABLE and len(text) / n_lines > MEAN_LINE_CHARS and len(text) > 1_000:
        return "minified"
    if len(text) > MAX_LINE_CHARS and max(map(len, text.split("\n"))) > MAX_LINE_CHARS:
        return "minified"
    return None
