"""Which language a source file is in: by its name, its suffix or its `#!` line."""

import difflib
import re
from collections.abc import Iterable
from pathlib import PurePosixPath

PROGRAMMING = """
ada: .adb .ads
assembly: .asm .s
awk: .awk
c: .c .h
c#: .cs
c++: .cc .cpp .cxx .c++ .hh .hpp .hxx .ipp .tpp .inl .cppm
clojure: .clj .cljs .cljc
cmake: .cmake CMakeLists.txt
cobol: .cob .cbl
coffeescript: .coffee
common lisp: .lisp .lsp .cl
crystal: .cr
cuda: .cu .cuh
cython: .pyx .pxd .pxi
d: .d
dart: .dart
dockerfile: .dockerfile Dockerfile Containerfile
elixir: .ex .exs
elm: .elm
emacs lisp: .el
erlang: .erl .hrl
f#: .fs .fsi .fsx
fortran: .f .for .f77 .f90 .f95 .f03 .f08
glsl: .glsl .vert .frag
go: .go
groovy: .groovy .gradle Jenkinsfile
haskell: .hs .lhs
haxe: .hx
java: .java
javascript: .js .mjs .cjs .jsx
julia: .jl
jupyter notebook: .ipynb
kotlin: .kt .kts
lean: .lean
lua: .lua
makefile: .mk .mak Makefile GNUmakefile makefile
mojo: .mojo
nim: .nim
nix: .nix
objective-c: .m
objective-c++: .mm
ocaml: .ml .mli
odin: .odin
opencl: .opencl
pascal: .pas .pp .lpr
perl: .pl .pm .t
php: .php
powershell: .ps1 .psm1 .psd1
prolog: .pro
protocol buffer: .proto
puppet: .puppet
python: .py .pyi .pyw SConstruct SConscript
r: .r
racket: .rkt
ruby: .rb .rake .gemspec Rakefile Gemfile
rust: .rs
scala: .scala .sc
scheme: .scm .ss
shell: .sh .bash .zsh .ksh .fish
solidity: .sol
sql: .sql
starlark: .bzl .bazel BUILD WORKSPACE
swift: .swift
systemverilog: .sv .svh
tcl: .tcl
terraform: .tf .hcl
thrift: .thrift
typescript: .ts .tsx .mts .cts
verilog: .v .vh
vhdl: .vhd .vhdl
vim script: .vim
visual basic: .vb .bas
zig: .zig
"""
# read only when a config names them: most of what is written in them is data or prose
MARKUP = """
css: .css .scss .sass .less
csv: .csv .tsv
html: .html .htm .xhtml
ini: .ini .cfg .conf .properties
json: .json .jsonl .geojson
markdown: .md .markdown
restructuredtext: .rst
svg: .svg
svelte: .svelte
tex: .tex .sty .cls .bib
toml: .toml
vue: .vue
xml: .xml .xsd .xsl .xslt
yaml: .yaml .yml
"""
INTERPRETERS = {
    **dict.fromkeys(("sh", "bash", "zsh", "ksh", "dash", "ash", "fish"), "shell"),
    **dict.fromkeys(("awk", "gawk", "mawk"), "awk"),
    **dict.fromkeys(("node", "nodejs", "deno", "bun"), "javascript"),
    **dict.fromkeys(("python", "pypy"), "python"),
    **dict.fromkeys(("tclsh", "wish"), "tcl"),
    **{
        "make": "makefile",
        "rscript": "r",
        "runghc": "haskell",
        "runhaskell": "haskell",
        "ts-node": "typescript",
        "escript": "erlang",
    },
    **{
        name: name
        for name in (
            "perl",
            "ruby",
            "lua",
            "php",
            "groovy",
            "julia",
            "scala",
            "racket",
            "elixir",
            "swift",
            "crystal",
            "nix",
        )
    },
}
# `#!/usr/bin/env -S VAR=x python3` and `#!/bin/sh` alike: the last path component up to its digits.
SHEBANG = re.compile(rb"#!\s*(?:\S*/env(?:\s+-\S+|\s+\w+=\S*)*\s+)?(?:\S*/)?([A-Za-z][A-Za-z-]*)")


def _table(lines: str) -> dict[str, str]:
    # `c++: .cc .cpp` → one entry a suffix or file name.
    rows = (line.split(": ") for line in lines.strip().splitlines())
    return {name: language for language, names in rows for name in names.split()}


BY_NAME = _table(PROGRAMMING + MARKUP.lstrip())  # suffix or whole name → language
LANGUAGES = frozenset(BY_NAME.values())
PROGRAMMING_LANGUAGES = frozenset(_table(PROGRAMMING).values())


def language_of_name(name: str) -> str:
    """The language that the file's name tells, "" when it tells none."""
    # The whole name first: CMakeLists.txt is no text file.
    return BY_NAME.get(name) or BY_NAME.get(PurePosixPath(name).suffix.lower(), "")


def language_of_shebang(data: bytes) -> str:
    """The language of a script by its first line, "" when that is no `#!` line of an interpreter we know."""
    # Linux reads no more than 255 bytes of the line; an interpreter's name comes early.
    shebang = SHEBANG.match(data[:200])
    return INTERPRETERS.get(shebang[1].decode().lower(), "") if shebang else ""


def check_languages(names: Iterable[str]) -> None:
    """Raises ValueError for a name that is not in the table."""
    for name in names:
        if name not in LANGUAGES:
            near = ", ".join(difflib.get_close_matches(name, LANGUAGES, 3, 0.3)) or "python"
            raise ValueError(f"languages: {name!r} is not known; nearest: {near}")
