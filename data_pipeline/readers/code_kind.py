"""Files in a source tree that nobody wrote there: vendored, generated, minified; each told by its path or
by its head.
"""

import re
from typing import Literal

from data_pipeline.readers.comments import comments
from data_pipeline.readers.generated_marks import CODE, says_generated

Kind = Literal["git_ignored", "vendored", "generated", "minified"]
KINDS: tuple[Kind, ...] = ("git_ignored", "vendored", "generated", "minified")

# Where package managers and people put code of others.
VENDORED_FOLDERS = frozenset(
    """bower_components carthage extern externals _externals godeps jspm_packages node_modules pods vendor
    vendored vendors _vendor _vendored _vendors third_party third-party thirdparty 3rdparty 3rd_party
    site-packages dist-packages _bundled""".split()
)
# Scripts and libraries that people copy under their own names, as github-linguist lists them.
VENDORED_NAME = re.compile(
    r"^(?:(?:jquery|jquery-ui|jquery\.ui|bootstrap|angular|react|vue|lodash|underscore|backbone"
    r"|prototype|moment"
    r"|three|d3|raphael|require)[.-]v?[0-9][\w.-]*|jquery(?:[.-]ui|\.slim)?|modernizr[\w.-]*"
    r"|mootools[\w.-]*|html5shiv"
    r"|bootstrap\.bundle|d3\.v[0-9]|lodash|react(?:-dom)?\.(?:development|production))\.(?:[cm]?js|css)$"
    r"|^(?:gradlew(?:\.bat)?|mvnw(?:\.cmd)?|config\.(?:guess|sub)|install-sh|depcomp|ltmain\.sh"
    r"|ez_setup\.py"
    r"|get-pip\.py|cpplint\.py|versioneer\.py|waf)$"
)
# The comment at the top of a library that somebody copied: name and version of the whole of it.
VENDORED_HEAD = re.compile(
    r"\A\s*/\*[!*]?[\s*]*(?:@license\s+)?(?:jQuery (?:JavaScript Library|UI|v)|Bootstrap (?:v\d|Reboot)"
    r"|Modernizr "
    r"|Underscore\.js \d|Lodash <|AngularJS v\d|Vue\.js v\d|React v\d|normalize\.css v\d"
    r"|Font Awesome (?:Free )?\d"
    r"|Sizzle |Prototype JavaScript framework|MooTools|Backbone\.js \d)",
    re.IGNORECASE,
)
# Written by package managers, thousands of lines at a time.
LOCK_FILES = frozenset(
    """bun.lock cargo.lock cartfile.resolved composer.lock conda-lock.yml deno.lock flake.lock gemfile.lock
    go.sum go.work.sum gopkg.lock gradle.lockfile mix.lock module.bazel.lock npm-shrinkwrap.json
    package-lock.json package.resolved packages.lock.json paket.lock pdm.lock pipfile.lock pixi.lock
    pnpm-lock.yaml podfile.lock poetry.lock pubspec.lock pylock.toml rebar.lock shard.lock stack.yaml.lock
    symfony.lock uv.lock yarn.lock""".split()
)
GENERATED_NAME = re.compile(
    r"^(?:moc|ui|qrc)_\w+\.(?:cpp|cc|cxx|h)$|_rc\.py$|^(?:aclocal\.m4|parsetab\.py|lextab\.py"
    r"|cmake_install\.cmake|CTestTestfile\.cmake)$|\.bundle\.[cm]?js$|^\w+_wrap\.(?:c|cpp|cxx)$"
    r"|_pb2(?:_grpc)?\.pyi?$|_pb\.(?:[cm]?js|ts|rb)$|\.pb(?:-c)?(?:\.gw|_grpc)?\.(?:go|cc|c|h|swift)$"
    r"|_grpc\.pb\."
    r"|\.(?:pb|pbenum|pbjson|pbserver|freezed|g|gr|mocks)\.dart$|^zz_generated\.\w+\.go$|^bindata\.go$"
    r"|\.pbxproj$|\.designer\.(?:cs|vb)$|\.g(?:\.i)?\.cs$|_generated\.\w+$|\.generated\.\w+$"
    r"|\.tab\.(?:c|h|cc|cpp|hh)$|^lex\.\w+\.c$|\.(?:js|css)\.map$|^(?:BuildConfig|R)\.java$",
    re.IGNORECASE,
)
# Where builds put what they made of the sources of the same package.
BUILT_FOLDERS = frozenset(("dist",))
BUILT_NAME = re.compile(r"\.(?:[cm]?js|css|d\.[cm]?ts)$", re.IGNORECASE)
MINIFIED_NAME = re.compile(r"[.-]min\.(?:[cm]?js|css)$", re.IGNORECASE)
# Runtimes that bundlers and compilers put before the code of many files, which lines of code show.
BUNDLE = re.compile(
    r"\bwebpack(?:Bootstrap|UniversalModuleDefinition|Chunk\w*)\b|\b__webpack_(?:require|modules"
    r"|exports)__\b"
    r"|\bparcelRequire\b|^\s*(?:var|const|let) __(?:defProp|commonJS|commonJSMin|esm|export|create"
    r"|toESM) ?="
    r"|^\W*\(?function(?: \w+)?\(\w,\w,\w\) ?\{ ?function \w+\(\w,\w\)"
    r"|^\W*\(?function\(\)\{function r\(e,n,t\)\{function o\(i,f\)"
    # rollup's and TypeScript's wrappers
    r"|typeof exports === ['\"]object['\"] && typeof module !== ['\"]undefined['\"]"
    r" \? (?:module\.exports = )?factory\("
    r"|^(?:var|const) __(?:awaiter|generator|extends|assign|rest|decorate|importDefault|importStar"
    r"|createBinding|spreadArray)"
    r" = \(?(?:this && this\.__|function)"
    r"|^Object\.defineProperty\(exports, ['\"]__esModule['\"], \{|^System\.register\(\["
    r"|^\(function\(scope\)\{|^\s*// node_modules/\S+\.[cm]?[jt]sx?$"
)
SOURCE_MAP = re.compile(r"^\s*(?://|/\*)[#@] ?source(?:Mapping)?URL=", re.MULTILINE)
TAIL_CHARS = 400
HEAD_LINES, HEAD_CHARS = 40, 4_000
MINIFIABLE = frozenset(("javascript", "css"))
BUNDLED = frozenset(("javascript", "typescript", "css"))
MEAN_LINE_CHARS = 110  # of JavaScript and CSS: github-linguist's rule
MAX_LINE_CHARS = 100_000  # of any language: StarCoder 2 (Lozhkov et al. 2024, §2.2)


def kind_of_path(path: str) -> Kind | None:
    """What the path inside the tree tells: vendored by a folder, generated or minified by the name; None =
    nothing.
    """
    *folders, name = path.split("/")
    if any(folder.lower() in VENDORED_FOLDERS for folder in folders):
        return "vendored"
    if MINIFIED_NAME.search(name):
        return "minified"
    if name.lower() in LOCK_FILES or GENERATED_NAME.search(name):
        return "generated"
    if BUILT_NAME.search(name) and BUILT_FOLDERS.intersection(folders):
        return "generated"
    return "vendored" if VENDORED_NAME.search(name) else None


def kind_of_text(text: str, language: str) -> Kind | None:
    """What the text tells: a comment in its head that says a program wrote it, or lines that no person
    writes; None = nothing.
    """
    # Cut first: splitting all lines of a minified file would take longer than reading it.
    head = text[:HEAD_CHARS].splitlines()[:HEAD_LINES]
    if language in MINIFIABLE and VENDORED_HEAD.match(text):
        return "vendored"
    # Only in comments: code that prints `generated by` was written by a person.
    if any(says_generated(comment) for comment in comments("\n".join(head), language)):
        return "generated"
    if CODE.search("\n".join(head)):
        return "generated"
    if language in BUNDLED and is_bundle(text, head):
        return "minified"
    n_lines = text.count("\n") + 1
    if language in MINIFIABLE and len(text) / n_lines > MEAN_LINE_CHARS and len(text) > 1_000:
        return "minified"
    if len(text) > MAX_LINE_CHARS and max(map(len, text.split("\n"))) > MAX_LINE_CHARS:
        return "minified"
    return None


def is_bundle(text: str, head: list[str]) -> bool:
    """Whether a bundler or compiler made it: its runtime stands above, or its source's map is named below."""
    return (
        any(BUNDLE.search(line) for line in head)
        or SOURCE_MAP.search(text[-TAIL_CHARS:]) is not None
    )
