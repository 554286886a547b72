"""Licences and revisions of source files: a file's own, else that of its package or checkout."""

import pytest

from data_pipeline.readers.git_checkout import revision
from data_pipeline.readers.licence_heads import licence_of_head
from data_pipeline.readers.licences import PERMISSIVE, allowed, expression, licence_of_text
from tests.data_pipeline.code_files import CODE, MIT, licences_in, tree, write

COMMIT = "0123456789abcdef0123456789abcdef01234567"


BSD = """Redistribution and use in source and binary forms, with or without
modification, are permitted provided that the following conditions are met:
 * Redistributions of source code must retain the above copyright notice.\n"""


ENDORSE = (
    " * Neither the name of the copyright holder may be used to endorse or promote products.\n"
)


APACHE_HEAD = '# Licensed under the Apache License, Version 2.0\n# (the "License"); you may not use this file\n'


GPL_HEAD = """// This program is free software: you can redistribute it and/or modify it under the terms of the GNU General Public License
// as published by the Free Software Foundation, either version 3 of the License, or (at your option) any later version.\n"""


@pytest.mark.parametrize("head", ["loose", "packed", "detached"])
def test_a_checkout_carries_its_revision_and_its_ignored_files_are_left_out(tmp_path, head):
    repository = tmp_path / "org" / "tool"
    files = {
        ".git/HEAD": COMMIT if head == "detached" else "ref: refs/heads/main\n",
        ".git/info/exclude": "private.py\n",
        ".gitignore": "build/\n*.gen.py\n!kept.gen.py\n",
        "src/.gitignore": "/local.py\n",
        **dict.fromkeys(
            (
                "src/a.py",
                "b.py",
                "kept.gen.py",
                "x.gen.py",
                "build/x.py",
                "src/local.py",
                "private.py",
            ),
            CODE,
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
    assert [d.group for d in documents] == ["loose", *["org/tool"] * 3] and counts == {
        "git_ignored": 4
    }
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
    assert [revision(tmp_path / name) for name in ("w", "new", "broken", "none")] == [
        COMMIT[:12],
        "",
        "",
        "",
    ]


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
    assert licences_in(tmp_path, files) == {
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


# Conditions beside the words of a permissive licence, as source-available and copyleft licences have them.
CONDITIONS = (
    '"Commons Clause" License Condition. The License does not grant to you the right to Sell the Software.',
    "Grant of Future License: on the second anniversary of the date we make the Software available, it is "
    "under the licence below; until then any Competing Use is prohibited.",
    "Redistributions in any form must be accompanied by information on how to obtain complete source code "
    "for this software and any accompanying software that uses it.",
    "The Software shall be used for Good, not Evil.",
    "You may use this for academic research only; commercial use requires a licence from Acme.",
    "All advertising must display the following acknowledgement.",
)


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_permissive_licence_with_conditions_beside_it_is_not_permissive(condition):
    for text in (f"{condition}\n\n{MIT}", f"{MIT}\n{condition}\n", f"{BSD}{ENDORSE}\n{condition}"):
        assert not allowed(licence_of_text(text), PERMISSIVE)
        head = "".join(f"# {line}\n" for line in text.split("\n"))
        assert not allowed(licence_of_head(head), PERMISSIVE)
    titled = f"The MIT License (MIT)\n\nCopyright (c) 2020 A. Person and contributors\n\n{MIT}"
    assert licence_of_text(titled) == "MIT"


@pytest.mark.parametrize(
    ("head", "licence"),
    [
        (
            "# Proprietary.\n# Uses foo, which is licensed under the Apache License, Version 2.0.\n",
            "",
        ),
        (
            "// Talks to bar, a server\n// licensed under the Apache License, Version 2.0.\nint x;\n",
            "",
        ),
        ("// Requires libfoo (Boost Software License, Version 1.0).\nint x;\n", ""),
        ("// Distributed under the Boost Software License, Version 1.0.\nint x;\n", "BSL-1.0"),
        ("/* Copyright 2020 The Authors. All rights reserved. */\n" + APACHE_HEAD, "Apache-2.0"),
        (
            "# This program is released under the Apache 2.0 license.\nif not x: pass\n",
            "Apache-2.0",
        ),
        (
            "/* The ASF licenses this file\n * to You under the Apache License, Version 2.0 */",
            "Apache-2.0",
        ),
    ],
)
def test_a_head_that_speaks_of_anothers_licence_is_passed_over(head, licence):
    assert licence_of_head(head) == licence


def test_a_closed_head_binds_before_the_package_and_more_packages_say_their_licence(tmp_path):
    tcl = (
        "This software is copyrighted by the Regents of the University of California, Sun Microsystems,\n"
        "Inc. The authors hereby grant permission to use, copy, modify, distribute,\n"
        "and license this software and its documentation for any purpose\n"
    )
    files = {
        "LICENSE": MIT,
        "a.c": "/* Proprietary and confidential. Unauthorized copying is prohibited. */\nint x;\n",
        "php/composer.json": '{"license": ["MIT", "GPL-3.0-or-later"]}',
        "php/x.php": "<?php\n$x = 1;\n",
        "tcl/license.terms": tcl,
        "tcl/x.c": "int x;\n",
        "png/LICENSE": "PNG Reference Library License version 2\n",
        "png/x.c": "int x;\n",
    }
    assert licences_in(tmp_path, files) == {
        "a.c": "LicenseRef-other-conditions",
        "php/x.php": "MIT OR GPL-3.0-or-later",
        "tcl/x.c": "TCL",
        "png/x.c": "libpng-2.0",
    }
