"""Code: every source file that people wrote, once, with language, licence and revision; every other one
counted by its reason.
"""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from data_pipeline.documents.drops import Drops
from data_pipeline.readers.code_files import MAX_FILE_BYTES, Found, batches
from data_pipeline.readers.code_tree import CodeTree, StdlibCode
from data_pipeline.readers.git_checkout import revision
from data_pipeline.readers.languages import language_of_name, language_of_shebang
from data_pipeline.readers.licences import PERMISSIVE, allowed, expression, licence_of_head, licence_of_text
from data_pipeline.readers.notebooks import notebook_text
from data_pipeline.readers.part import read_all

CODE = b"def f(x):\n    return x + 1\n"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
MIT = """MIT License\n\nCopyright (c) 2020 Somebody\n\nPermission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal in the Software without restriction.

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.\n"""
BSD = """Redistribution and use in source and binary forms, with or without
modification, are permitted provided that the following conditions are met:
 * Redistributions of source code must retain the above copyright notice.\n"""
ENDORSE = " * Neither the name of the copyright holder may be used to endorse or promote products.\n"
APACHE_HEAD = (
    '# Licensed under the Apache License, Version 2.0\n# (the "License"); you may not use this file\n'
)
GPL_HEAD = """// This program is free software: you can redistribute it and/or modify it under the terms of the GNU General Public License
// as published by the Free Software Foundation, either version 3 of the License, or (at your option) any later version.\n"""


def write(root: Path, files: dict[str, bytes | str]) -> None:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data.encode() if isinstance(data, str) else data)


def read(reader, work: Path):
    drops = Drops()
    return list(read_all(reader, "code", work=work, drops=drops)), dict(drops.counts.get("code", {}))


def tree(root: Path, **fields):
    return read(CodeTree(folder=str(root), **fields), root)


def test_code_is_decoded_as_its_coding_line_says_and_a_bad_file_is_counted(tmp_path):
    files = {
        "pkg/latin.py": "# -*- coding: latin-1 -*-\nname = 'é'\n".encode("latin-1"),
        "pkg/utf8.py": "name = 'é'\n",
        "pkg/utf16.sql": "select 'é';\n".encode("utf-16"),
        "pkg/bad.py": b"name = '\xe9'\n",
        "pkg/unknown.py": b"# coding: no-such-coding\nx = 1\n",
        "pkg/object.m": b"\xcf\xfa\xed\xfe\0\0\0\0" * 9,
        "other/empty.py": b" \n",
        "other/data.json": b"{}",
        "tests/test_it.py": b"assert True\n",
        "single.py": b"x = 1\n",
        "pkg/__pycache__/x.py": b"x = 1\n",
        ".hidden/x.py": b"x = 1\n",
    }
    write(tmp_path, files)
    documents, counts = tree(tmp_path, exclude=("/tests/*",))
    shown = [(d.path, d.group, d.language) for d in documents]
    assert shown[:2] == [("pkg/latin.py", "pkg", "python"), ("pkg/utf16.sql", "pkg", "sql")]
    assert shown[2:] == [("pkg/utf8.py", "pkg", "python"), ("single.py", "single", "python")]
    assert "name = 'é'" in documents[0].text and "'é'" in documents[1].text
    assert counts == {"file_not_utf8": 2, "file_empty": 1, "file_binary": 1}


def test_folders_that_all_files_share_do_not_make_them_one_group(tmp_path):
    write(tmp_path, {"src/lib/a.py": CODE, "src/lib/b/c.py": CODE + b"\n"})
    assert [d.group for d in tree(tmp_path)[0]] == ["a", "b"]


def test_the_standard_library_is_read_without_its_tests_and_groups_as_its_pages_do(tmp_path):
    documents, _ = read(StdlibCode(), tmp_path)
    groups = {d.path: d.group for d in documents}
    assert len(documents) > 400 and groups["json/decoder.py"] == "json" and groups["bisect.py"] == "bisect"
    assert not [
        path for path in groups if "/test" in f"/{path}" and not path.startswith(("unittest/", "doctest"))
    ]
    assert "pydoc_data/topics.py" not in groups and list(groups) == sorted(groups) and "token.py" in groups
    assert {d.language for d in documents} == {"python"} and all(d.licence for d in documents)


def test_parts_do_not_change_what_is_read(tmp_path):
    names = [
        "a/x.py",
        "a/y/z.py",
        "a.py",
        "b/x.py",
        "b-c/x.py",
        "c/x.js",
        "c/min.min.js",
        "d/x.py",
        "LICENSE",
    ]
    write(tmp_path, {name: f"# {name}\n" + "x = 1\n" * 20 for name in names} | {"LICENSE": MIT})
    whole = tree(tmp_path)
    assert len(CodeTree(folder=str(tmp_path), part_bytes=300).parts("code", work=tmp_path)) > 2
    assert tree(tmp_path, part_bytes=300) == whole and tree(tmp_path, part_bytes=1) == whole
    assert [d.path for d in whole[0]] == sorted(d.path for d in whole[0]) and {
        d.licence for d in whole[0]
    } == {"MIT"}


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), st.integers(0, 50)), max_size=20),
    st.integers(1, 120),
)
def test_batches_keep_every_file_once_in_order_and_small_folders_whole(rows, most_bytes):
    files = sorted(
        {f"{folder}/{name}{n}": Found(f"{folder}/{name}{n}", n) for folder, name, n in rows}.values()
    )
    cut = list(batches(files, depth=0, most_bytes=most_bytes))
    assert [file for batch in cut for file in batch] == files and all(cut)
    for folder in "abc":
        own = [file for file in files if file.path.startswith(folder)]
        if own and sum(file.n_bytes for file in own) <= most_bytes:
            assert sum(any(file in batch for file in own) for batch in cut) == 1


def test_what_nobody_wrote_there_is_counted_by_its_kind(tmp_path):
    files = {
        "a/own.py": CODE,
        "a/node_modules/left-pad/index.js": "x",
        "a/third_party/x.c": "int x;",
        "a/_vendor/x.py": CODE,
        "a/api_pb2.py": CODE,
        "a/head.go": "// Code generated by protoc-gen-go. DO NOT EDIT.\npackage x\n",
        "a/tool.py": '"""Numbers that are generated by a seed are auto-correlated."""\nx = 1\n',
        "a/lib.min.js": "x=1",
        "a/bundle.js": "var a=1;" * 500,
        "a/table.py": "x = '" + "0" * 100_001 + "'\n",
        "a/long.py": "x = 1\n" * (MAX_FILE_BYTES // 6 + 1),
    }
    write(tmp_path, files)
    documents, counts = tree(tmp_path)
    assert [d.path for d in documents] == ["a/own.py", "a/tool.py"]
    assert counts == {"vendored": 3, "generated": 2, "minified": 3, "file_too_large": 1}
    assert len(tree(tmp_path, leave_out=())[0]) == len(files) - 1


def test_a_file_of_a_gigabyte_is_never_opened(tmp_path):
    write(tmp_path, {"a.py": CODE})
    with (tmp_path / "large.py").open("wb") as file:
        file.truncate(1 << 30)
    (part,) = CodeTree(folder=str(tmp_path)).parts("code", work=tmp_path)
    assert [Path(file).name for file in part.inputs] == ["a.py"] and tree(tmp_path)[1] == {
        "file_too_large": 1
    }


def test_links_pipes_and_strange_names_lose_nothing(tmp_path):
    write(tmp_path, {"a/new\nline.py": CODE, "a/é.py": CODE, "b.py": CODE})
    with open(os.fsencode(tmp_path) + b"/a/\xff\xfe.py", "wb") as file:
        file.write(CODE)
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "a" / "linked.py").symlink_to(tmp_path / "b.py")
    (tmp_path / "a" / "broken.py").symlink_to(tmp_path / "nowhere.py")
    os.mkfifo(tmp_path / "a" / "pipe.py")
    documents, counts = tree(tmp_path)
    assert [d.path for d in documents] == [
        "a/linked.py",
        "a/new\nline.py",
        "a/é.py",
        "a/\\xff\\xfe.py",
        "b.py",
    ]
    assert {d.group for d in documents} == {"a", "b"} and counts == {
        "file_unreadable": 1,
        "not_a_file": 1,
        "folder_link": 1,
    }
    for part in CodeTree(folder=str(tmp_path)).parts("code", work=tmp_path):
        json.dumps(part, ensure_ascii=False).encode()


def test_a_file_that_vanishes_or_grows_is_counted(tmp_path):
    write(tmp_path, {"a.py": CODE, "b.py": CODE, "c.py": CODE})
    reader, drops = CodeTree(folder=str(tmp_path)), Drops()
    (part,) = reader.parts("code", work=tmp_path)
    (tmp_path / "a.py").unlink()
    (tmp_path / "b.py").write_bytes(b"x" * (MAX_FILE_BYTES + 1))
    assert [d.path for d in reader.read(part, "code", work=tmp_path, drops=drops)] == ["c.py"]
    assert drops.counts["code"] == {"file_unreadable": 1, "file_too_large": 1}


@pytest.mark.parametrize("head", ["loose", "packed", "detached"])
def test_a_checkout_carries_its_revision_and_its_ignored_files_are_left_out(tmp_path, head):
    repository = tmp_path / "org" / "tool"
    files = {
        ".git/HEAD": COMMIT if head == "detached" else "ref: refs/heads/main\n",
        ".git/info/exclude": "private.py\n",
        ".gitignore": "build/\n*.gen.py\n!kept.gen.py\n",
        "src/.gitignore": "/local.py\n",
        **dict.fromkeys(
            ("src/a.py", "b.py", "kept.gen.py", "x.gen.py", "build/x.py", "src/local.py", "private.py"), CODE
        ),
    }
    write(repository, files)
    if head == "loose":
        write(repository, {".git/refs/heads/main": COMMIT + "\n"})
    if head == "packed":
        write(
            repository,
            {
                ".git/packed-refs": f"# pack-refs with: peeled\n{'f' * 40} refs/heads/other\n{COMMIT} refs/heads/main\n"
            },
        )
    write(tmp_path, {"org/loose.py": CODE, "org/.gitignore": "*\n"})
    documents, counts = tree(tmp_path)
    names = [f"org/tool@{COMMIT[:12]}/{path}" for path in ("b.py", "kept.gen.py", "src/a.py")]
    assert [d.path for d in documents] == ["org/loose.py", *names]
    assert [d.group for d in documents] == ["loose", *["org/tool"] * 3] and counts == {"git_ignored": 4}
    assert [d.path for d in tree(repository)[0]] == [name.removeprefix("org/") for name in names]


def test_a_worktree_knows_its_revision_and_a_checkout_without_commits_has_none(tmp_path):
    worktree = {
        ".git/worktrees/w/HEAD": "ref: refs/heads/w\n",
        ".git/worktrees/w/commondir": "../..\n",
        ".git/refs/heads/w": COMMIT,
    }
    write(tmp_path / "main", worktree)
    write(tmp_path / "w", {".git": f"gitdir: {tmp_path}/main/.git/worktrees/w\n"})
    write(tmp_path / "new", {".git/HEAD": "ref: refs/heads/main\n"})
    write(tmp_path / "broken", {".git/HEAD": b"\xff\0"})
    assert [revision(tmp_path / name) for name in ("w", "new", "broken", "none")] == [COMMIT[:12], "", "", ""]


def test_a_files_licence_is_its_own_else_that_of_the_nearest_package(tmp_path):
    files = {
        "LICENSE": MIT,
        "a.py": CODE,
        "head.py": f"#!/usr/bin/env python\n{APACHE_HEAD}x = 1\n",
        "tag.js": "/* SPDX-License-Identifier: GPL-2.0-only OR MIT */\nx = 1;\n",
        "bsd/COPYING": BSD + ENDORSE,
        "bsd/deep/x.c": "int x;\n",
        "js/package.json": '{"license": "isc"}',
        "js/x.js": "x = 1;\n",
        "rust/Cargo.toml": '[package]\nlicense = "MIT/Apache-2.0"\n',
        "rust/src/x.rs": "fn x() {}\n",
        "unknown/LICENSE": "You may look at it.",
        "unknown/x.py": CODE,
        "py/pyproject.toml": '[project]\nname = "x"\nlicense = {text = "BSD 3-Clause License"}\n',
        "py/x.py": CODE,
        "py/license.py": CODE,
    }
    write(tmp_path, files)
    licences = {d.path: d.licence for d in tree(tmp_path)[0]}
    assert licences == {
        **{
            "a.py": "MIT",
            "head.py": "Apache-2.0",
            "tag.js": "GPL-2.0-only OR MIT",
            "bsd/deep/x.c": "BSD-3-Clause",
            "js/x.js": "ISC",
        },
        **{
            "rust/src/x.rs": "MIT OR Apache-2.0",
            "unknown/x.py": "",
            "py/x.py": "BSD-3-Clause",
            "py/license.py": "BSD-3-Clause",
        },
    }
    kept, counts = tree(tmp_path, licences=("MIT", "ISC"))
    assert {d.path for d in kept} == {"a.py", "tag.js", "js/x.js", "rust/src/x.rs"}
    assert counts == {"no_licence": 1, "licence_Apache-2.0": 1, "licence_BSD-3-Clause": 3}


def test_installed_packages_are_under_what_their_metadata_declares(tmp_path):
    files = {
        "one/x.py": CODE,
        "one-1.0.dist-info/METADATA": "Name: one\nLicense-Expression: MIT OR Apache-2.0\n\nText",
        "one-1.0.dist-info/RECORD": "one/x.py,,\n../../bin/one,,\n",
        "two.py": CODE,
        "two-1.0.dist-info/METADATA": "Name: two\nClassifier: License :: OSI Approved :: MIT License\n",
        "two-1.0.dist-info/RECORD": "two.py,,\n",
        "three/x.py": CODE,
        "three-1.0.dist-info/METADATA": "Name: three\n",
        "three-1.0.dist-info/licenses/LICENSE": BSD,
        "three-1.0.dist-info/RECORD": "three/x.py,,\n",
        "four/x.py": CODE,
    }
    write(tmp_path, files)
    expected = {
        "one/x.py": "MIT OR Apache-2.0",
        "two.py": "MIT",
        "three/x.py": "BSD-2-Clause",
        "four/x.py": "",
    }
    assert {d.path: d.licence for d in tree(tmp_path)[0]} == expected
    assert {d.path: d.licence for d in tree(tmp_path, part_bytes=1)[0]} == expected


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        (MIT, "MIT"),
        (MIT.upper().replace("\n", "\n * "), "MIT"),
        (BSD, "BSD-2-Clause"),
        (BSD + ENDORSE, "BSD-3-Clause"),
        (APACHE_HEAD, "Apache-2.0"),
        (GPL_HEAD, "GPL-3.0-or-later"),
        (MIT + BSD + ENDORSE, "BSD-3-Clause AND MIT"),
        ("This is free and unencumbered software released into the public domain.", "Unlicense"),
        ("Mozilla Public License Version 2.0\n==================", "MPL-2.0"),
        ("All rights reserved. No permission is given.", ""),
    ],
)
def test_a_licence_is_known_by_its_words_alone(text, licence):
    assert licence_of_text(text) == licence and licence_of_head(text) == licence


@pytest.mark.parametrize(
    ("declared", "spdx"),
    [
        ("mit", "MIT"),
        ("Apache License, Version 2.0", "Apache-2.0"),
        ("(MIT OR gpl-2.0-only)", "(MIT OR GPL-2.0-only)"),
        ("Proprietary", ""),
    ],
)
def test_a_declared_licence_becomes_spdx_or_nothing(declared, spdx):
    assert expression(declared) == spdx


@pytest.mark.parametrize(
    ("licence", "is_allowed"),
    [
        ("MIT", True),
        ("GPL-3.0-only", False),
        ("MIT OR GPL-3.0-only", True),
        ("MIT AND GPL-3.0-only", False),
        ("GPL-3.0-only AND MIT OR Zlib", True),
        ("GPL-3.0-only AND (MIT OR Zlib)", False),
        ("Apache-2.0 WITH LLVM-exception", True),
    ],
)
def test_an_expression_is_allowed_when_allowed_licences_alone_meet_it(licence, is_allowed):
    assert allowed(licence, PERMISSIVE) is is_allowed


def cell(kind: str, source: str | list[str]) -> dict:
    return {"cell_type": kind, "source": source, "outputs": [{"text": "output"}], "metadata": {}}


def test_a_notebook_is_its_code_and_prose_in_percent_form(tmp_path):
    cells = [
        cell("markdown", "# Title\n\nProse"),
        cell("code", ["x = 1\n", "x\n"]),
        cell("code", ""),
        cell("raw", "raw"),
    ]
    write(
        tmp_path,
        {
            "a.ipynb": json.dumps(
                {"cells": cells, "metadata": {"kernelspec": {"language": "python"}}, "nbformat": 4}
            )
        },
    )
    write(tmp_path, {"b.ipynb": '{"cells": 1}', "c.ipynb": "[" * 100_000})
    (document,), counts = tree(tmp_path)
    assert document.text == "# %% [markdown]\n# # Title\n#\n# Prose\n\n# %%\nx = 1\nx\n\n# %% [raw]\n# raw\n"
    assert document.language == "python" and counts == {"notebook_broken": 2}
    old = {"worksheets": [{"cells": [{"cell_type": "code", "input": ["y = '\ud800'"]}]}]}
    assert notebook_text(json.dumps(old)) == ("python", "# %%\ny = '?'\n")
    rust = {"cells": [cell("markdown", "Hi")], "metadata": {"language_info": {"name": "Rust"}}}
    assert notebook_text(json.dumps(rust)) == ("rust", "// %% [markdown]\n// Hi\n")


def test_the_language_is_told_by_name_suffix_or_first_line(tmp_path):
    assert [language_of_name(name) for name in ("Makefile", "x.TSX", "CMakeLists.txt", "x.txt", "x")] == [
        *("makefile", "typescript", "cmake", "", "")
    ]
    lines = [
        b"#!/bin/sh -e\n",
        b"#!/usr/bin/env -S python3.12 -u\n",
        b"#! /usr/local/bin/perl5\n",
        b"#!/bin/unknown",
        b"x",
        b"#!",
    ]
    assert [language_of_shebang(line) for line in lines] == ["shell", "python", "perl", "", "", ""]
    write(tmp_path, {"script": "#!/bin/bash\necho\n", "notes": "no script", "x.md": "# Prose\n"})
    assert [(d.path, d.language) for d in tree(tmp_path)[0]] == [("script", "shell")]
    assert [d.path for d in tree(tmp_path, languages=("markdown",))[0]] == ["x.md"]


def test_nothing_to_read_is_one_clear_error(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"sources\.code\.folder='.*nowhere' does not exist; name an existing"
    ):
        tree(tmp_path / "nowhere")
    with pytest.raises(
        ValueError,
        match=r"folder='.*' holds no source file \(languages=None; left out: nothing\); name a folder that does",
    ):
        tree(tmp_path)
    write(tmp_path, {"vendor/x.py": CODE})
    with pytest.raises(ValueError, match=r"left out: vendored\)"):
        tree(tmp_path)
    with pytest.raises(ValueError, match=r"folder='s3://bucket' is a URL; copy the tree"):
        read(CodeTree(folder="s3://bucket"), tmp_path)
    with pytest.raises(ValidationError, match="languages: 'pyhton' is not known; nearest: python"):
        CodeTree(folder="x", languages=("pyhton",))
