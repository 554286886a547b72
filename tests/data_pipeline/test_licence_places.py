"""Licences in the places and forms that people write them in: other wrapping and signs, tags, choices, manifests."""

import textwrap

import pytest

from data_pipeline.readers.licence_heads import is_closed, licence_of_head
from data_pipeline.readers.licences import OTHER, PERMISSIVE, allowed, licence_of_text
from data_pipeline.readers.package_declarations import declared_by
from tests.data_pipeline.code_files import CODE, MIT, licences_in, tree, write

GPL = """This program is free software; you can redistribute it and/or modify it under the terms of the GNU
General Public License as published by the Free Software Foundation; either version 2 of the License, or (at your
option) any later version."""
SIGNS = {
    "python": "# {}",
    "c": " * {}",
    "c++": "// {}",
    "sql": "-- {}",
    "erlang": "%% {}",
    "common lisp": ";;; {}",
    "fortran": "C     {}",
    "vim script": '" {}',
    "rust": "//! {}",
    "shell": "#   {}",
}


@pytest.mark.parametrize("language", SIGNS)
@pytest.mark.parametrize("width", [38, 64, 100])
def test_a_licence_is_known_under_any_sign_and_wrapping(language, width):
    for text, licence in ((MIT, "MIT"), (GPL, "GPL-2.0-or-later")):
        lines = textwrap.wrap(text, width)
        head = "\n".join(SIGNS[language].replace("{}", line) for line in lines)
        head = f"/*\n{head}\n */" if language == "c" else head
        assert licence_of_head(f"{head}\n\nx = 1\n", language) == licence


def test_ligatures_and_soft_hyphens_of_other_documents_make_no_difference():
    odd = MIT.replace("files", "\ufb01les").replace("Software", "Soft\u00adware")
    assert licence_of_text(odd) == "MIT"


@pytest.mark.parametrize(
    ("text", "language", "licence"),
    [
        ("# SPDX-License-Identifier: MIT\n", "python", "MIT"),
        ("/* SPDX-License-Identifier: (GPL-2.0-only OR MIT) */\n", "c", "(GPL-2.0-only OR MIT)"),
        ("<!-- SPDX-License-Identifier: Apache-2.0 -->\n", "html", "Apache-2.0"),
        ("(* SPDX-License-Identifier: ISC *)\n", "ocaml", "ISC"),
        ("# spdx-license-identifier: mit\n", "python", "MIT"),
        ("x = 1\n" * 3000 + "# SPDX-License-Identifier: GPL-3.0-only\n", "python", "GPL-3.0-only"),
        ('"""Tool.\n\nSPDX-License-Identifier: BSD-3-Clause\n"""\n', "python", "BSD-3-Clause"),
        ("// SPDX-License-Identifier: MIT AND Commons-Clause\n", "go", OTHER),
        ("// SPDX-License-Identifier: LicenseRef-Acme\n", "go", "LicenseRef-Acme"),
        ("// SPDX-License-Identifier: Acme EULA\n", "go", OTHER),
        # printed, not said
        ('HEAD = """\n# SPDX-License-Identifier: MIT\n"""\n', "python", ""),
        ('    "// SPDX-License-Identifier: MIT\\n"\n', "c", ""),
        ("head := `\n// SPDX-License-Identifier: MIT\n`\n", "go", ""),
        ("# Add an SPDX-License-Identifier: MIT to each file.\n", "python", ""),
        # of a piece of another's file
        (
            "# SPDX-License-Identifier: Apache-2.0\n# SPDX-SnippetBegin\n# SPDX-License-Identifier: MIT\n"
            "# SPDX-SnippetEnd\n",
            "python",
            "Apache-2.0",
        ),
    ],
)
def test_a_tag_counts_in_comments_alone(text, language, licence):
    assert licence_of_head(text, language) == licence


@pytest.mark.parametrize(
    ("head", "is_permissive"),
    [
        ("Licensed under the MIT license.", True),
        ("Dual licensed under the MIT or GPL Version 2 licenses.", True),
        (
            "Licensed under the Apache License, Version 2.0 or the MIT license, at your option.",
            True,
        ),
        ("Released under the MIT license, for non-commercial use only.", False),
        ("Licensed under the MIT license and the GPL.", False),
        (
            "Licensed under the MIT license, except for the parts that Acme sells; commercial use is prohibited.",
            False,
        ),
        ("Licensed under the MIT License with the Commons Clause.", False),
        (f"{MIT}\n\nThe Software shall not be used for military purposes.", False),
        (f"{MIT}\n\n{GPL}", False),
    ],
)
def test_choices_are_permissive_and_what_is_added_is_not(head, is_permissive):
    comment = "".join(f"// {line}\n" for line in head.split("\n"))
    assert allowed(licence_of_head(comment, "java") or OTHER, PERMISSIVE) is is_permissive


@pytest.mark.parametrize(
    "head",
    [
        "ACME CONFIDENTIAL",
        "Copyright (c) Acme. Proprietary and confidential.",
        "No part of this file may be copied without permission.",
        "This file may not be copied or distributed without the written consent of Acme.",
        "Free for non-commercial use.",
        "For academic use only.",
        "Dieses Programm ist freie Software. Sie können es unter den Bedingungen der GNU General Public License\n"
        "weitergeben.",
        "Ce logiciel est régi par la licence CeCILL soumise au droit français.",
        "Este programa se distribuye bajo GPLv3.",
        "Распространяется по лицензии GPL v2.",
        "Licensed under CC BY-NC-SA 4.0.",
    ],
)
def test_a_head_that_keeps_rights_back_is_not_under_its_packages_licence(head, tmp_path):
    comment = "".join(f"# {line}\n" for line in head.split("\n"))
    assert licence_of_head(comment, "python") == "" and is_closed(comment, "python")
    write(tmp_path, {"LICENSE": MIT, "a.py": comment.encode() + CODE})
    assert tree(tmp_path, licences=PERMISSIVE)[0] == []


def test_ordinary_heads_leave_it_to_the_package():
    for head in (
        "# Stores confidential values of proprietary formats.\n",
        "# Copyright 2020 The Authors. All rights reserved.\n",
        "# Use of this source code is governed by a BSD-style license in the LICENSE file.\n",
        "# Checks names under GNU/Linux; a replacement for GPL'd readline.\n",
    ):
        assert licence_of_head(head, "python") == "" and not is_closed(head, "python")


@pytest.mark.parametrize(
    ("name", "text", "licence"),
    [
        ("composer.json", '{"license": "MIT"}', "MIT"),
        (
            "composer.json",
            '{"license": ["LGPL-2.1-only", "GPL-3.0-or-later"]}',
            "LGPL-2.1-only OR GPL-3.0-or-later",
        ),
        ("composer.json", '{"license": "proprietary"}', OTHER),
        (
            "package.json",
            '{"licenses": [{"type": "MIT"}, {"type": "Apache-2.0"}]}',
            "MIT OR Apache-2.0",
        ),
        ("package.json", '{"license": "UNLICENSED"}', OTHER),
        ("package.json", '{"license": "MIT AND Commons-Clause"}', OTHER),
        ("package.json", '{"license": "SEE LICENSE IN LICENSE.md"}', ""),
        ("package.json", '{"license": "BSD"}', ""),
        ("setup.cfg", "[metadata]\nname = x\nlicense = Apache-2.0\n", "Apache-2.0"),
        ("setup.py", "setup(\n    name='x',\n    license='MIT',\n)\n", "MIT"),
        ("PKG-INFO", "Metadata-Version: 2.1\nName: x\nLicense: BSD-3-Clause\n", "BSD-3-Clause"),
        ("x.gemspec", "Gem::Specification.new do |s|\n  s.licenses = ['MIT']\nend\n", "MIT"),
        (
            "x.podspec",
            "Pod::Spec.new do |s|\n  s.license = { :type => 'MIT', :file => 'LICENSE' }\n",
            "MIT",
        ),
        ("x.cabal", "name: x\nlicense:             BSD3\nlicense-file: LICENSE\n", "BSD-3-Clause"),
        ("DESCRIPTION", "Package: x\nLicense: MIT + file LICENSE\n", "MIT"),
        ("DESCRIPTION", "Package: x\nLicense: GPL (>= 2)\n", OTHER),
        ("elm.json", '{"type": "package", "license": "BSD-3-Clause"}', "BSD-3-Clause"),
        ("x.opam", 'opam-version: "2.0"\nlicense: "ISC"\n', "ISC"),
        ("x.nimble", 'version = "0.1"\nlicense = "MIT"\n', "MIT"),
        ("mix.exs", '    [\n      licenses: ["Apache-2.0"],\n    ]\n', "Apache-2.0"),
        (
            "pom.xml",
            "<licenses><license><name>The Apache Software License, Version 2.0</name></license></licenses>",
            "Apache-2.0",
        ),
    ],
)
def test_manifests_declare_licences(name, text, licence):
    assert declared_by(name, text) == licence


def test_licences_in_packages_of_many_kinds(tmp_path):
    png = "COPYRIGHT NOTICE, DISCLAIMER, and LICENSE\n\nPNG Reference Library License version 2\n-----\n\n"
    go = (
        "Copyright (c) 2009 The Go Authors. All rights reserved.\n\nRedistribution and use in source and binary forms, "
        "with or without\nmodification, are permitted provided that the following conditions are\nmet:\n\n   * "
        "Redistributions of source code must retain the above copyright\nnotice, this list of conditions and the "
        "following disclaimer.\n   * Neither the name of Google Inc. nor the names of its\ncontributors may be used to "
        "endorse or promote products derived from\nthis software without specific prior written permission.\n"
    )
    patents = "Additional IP Rights Grant (Patents)\n\nGoogle hereby grants to You a perpetual, worldwide patent license.\n"
    files = {
        "text/LICENSE": go,
        "text/PATENTS": patents,
        "text/a.go": "// Copyright 2013 The Go Authors. All rights reserved.\n// Use of this source code is governed by a "
        "BSD-style\n// license that can be found in the LICENSE file.\n\npackage text\n",
        "png/LICENSE": png,
        "png/a.c": "/* a.c - a part of the library\n *\n * This code is released under the libpng license.\n * For "
        "conditions of distribution and use, see the disclaimer\n * and license in png.h\n */\nint x;\n",
        "gem/MIT-LICENSE": MIT,
        "gem/COPYRIGHT": "Copyright 2020 Somebody\n",
        "gem/a.rb": "x = 1\n",
        "ee/LICENSE": MIT,
        "ee/LICENSE-enterprise": "The Acme Enterprise License: a subscription agreement is required.\n",
        "ee/a.py": CODE,
        "none/package.json": '{"license": "UNLICENSED"}',
        "none/LICENSE": MIT,
        "none/a.js": "x = 1;\n",
    }
    assert licences_in(tmp_path, files) == {
        "text/a.go": "BSD-3-Clause",
        "png/a.c": "libpng-2.0",
        "gem/a.rb": "MIT",
        "ee/a.py": f"{OTHER} AND MIT",
        "none/a.js": OTHER,
    }
