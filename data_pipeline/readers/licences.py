"""Licences as SPDX expressions: read off a licence's text, off what a package declares, off the head of a
file.
"""

import re
import unicodedata

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from data_pipeline.readers.licence_conditions import STRONG, binds_further

# Licences that ask for no more than a notice: the common core of The Stack and its successors.
PERMISSIVE = tuple(
    """0BSD Apache-2.0 BSD-2-Clause BSD-3-Clause BSL-1.0 CC0-1.0 HPND ISC libpng-2.0 MIT MIT-0 NCSA PostgreSQL
    PSF-2.0 Python-2.0 TCL Unicode-3.0 Unlicense Zlib""".split()
)
# Stands beside a permissive licence whose text says more than that licence; nothing allows it.
OTHER = "LicenseRef-other-conditions"

MIT = (
    "permission is hereby granted free of charge to any person obtaining a copy of this software and "
    "associated documentation files"
)
INCLUDED = "this permission notice shall be included in all copies or substantial portions"
ADVERTISING = "shall not be used in advertising or otherwise to promote"
BSD = "redistribution and use in source and binary forms with or without modification are permitted"
HPND = "permission to use copy modify and distribute this software and its documentation for any purpose"
GRANT = (
    "permission to use copy modify and or distribute this software for any purpose with or without fee is "
    "hereby granted"
)
OLD_GRANT = GRANT.replace("and or", "and")
KEPT_NOTICE = (
    " provided that the above copyright notice and this permission notice appear in all copies"
)
GPL = "gnu general public license"
LGPL = "gnu lesser general public license"
AGPL = "gnu affero general public license"
LATER = "or at your option any later version"
# SPDX identifier, phrases that must all be there (`a | b`: one of them), phrases that must not; texts as
# `words` makes them
SIGNATURES = (
    ("MIT", f"{MIT} + {INCLUDED}", ADVERTISING),
    ("X11", f"{MIT} + {INCLUDED} + {ADVERTISING}", ""),
    (
        "MIT",
        "licensed under the mit license | released under the mit license | available under the mit license | "
        "distributed under the mit license | under the terms of the mit license | "
        "licensed under the mit licence",
        MIT,
    ),
    ("MIT-0", f"{MIT} + to deal in the software without restriction", INCLUDED),
    (
        "Apache-2.0",
        "apache license version 2 0 january 2004 | licensed under the apache license version 2 0",
        "",
    ),
    (
        "Apache-2.0",
        "licensed under the apache 2 0 license | released under the apache 2 0 license | "
        "under the apache license 2 0 | to you under the apache license version 2 0",
        "",
    ),
    ("BSD-4-Clause", f"{BSD} + all advertising materials mentioning features", ""),
    (
        "BSD-3-Clause",
        f"{BSD} + endorse or promote products | {BSD} + may not be used to endorse | "
        f"{BSD} + neither the name of",
        "all advertising materials mentioning features",
    ),
    (
        "BSD-2-Clause",
        f"{BSD} + following conditions",
        "endorse or promote | may not be used to endorse | neither the name of",
    ),
    ("ISC", f"{GRANT}{KEPT_NOTICE} | {OLD_GRANT}{KEPT_NOTICE}", ""),
    ("0BSD", f"{GRANT} | {OLD_GRANT}", KEPT_NOTICE.strip()),
    ("HPND", HPND, "beopen python open source license agreement"),  # Python's own holds one
    (
        "MPL-2.0",
        "mozilla public license version 2 0 | terms of the mozilla public license v 2 0",
        "",
    ),
    ("MPL-1.1", "mozilla public license version 1 1", ""),
    (
        "AGPL-3.0-or-later",
        f"{AGPL} as published by the free software foundation + version 3 + {LATER}",
        f"{AGPL} version 3 19 november",
    ),
    ("AGPL-3.0-only", f"{AGPL} version 3 19 november 2007", ""),
    (
        "LGPL-2.1-or-later",
        f"{LGPL} as published by the free software foundation + version 2 1 + {LATER}",
        f"{LGPL} version 2 1 february",
    ),
    ("LGPL-2.1-only", f"{LGPL} version 2 1 february 1999", ""),
    (
        "LGPL-3.0-or-later",
        f"{LGPL} as published by the free software foundation + version 3 + {LATER}",
        f"{LGPL} version 3 29 june",
    ),
    ("LGPL-3.0-only", f"{LGPL} version 3 29 june 2007", ""),
    ("LGPL-2.0-only", "gnu library general public license version 2 june 1991", ""),
    (
        "LGPL-2.0-or-later",
        f"gnu library general public license as published by + version 2 + {LATER}",
        "version 2 june 1991",
    ),
    (
        "GPL-2.0-or-later",
        f"{GPL} as published by the free software foundation + version 2 + {LATER}",
        f"{GPL} version 2 june 1991",
    ),
    (
        "GPL-3.0-or-later",
        f"{GPL} as published by the free software foundation + version 3 + {LATER}",
        f"{GPL} version 3 29 june 2007",
    ),
    ("GPL-2.0-only", f"{GPL} version 2 june 1991 + activities other than copying", ""),
    ("GPL-2.0-only", f"{GPL} version 2 as published by the free software foundation", LATER),
    ("GPL-3.0-only", f"{GPL} version 3 29 june 2007 + a patent license is", ""),
    ("Python-2.0", "beopen python open source license agreement version 1", ""),
    (
        "PSF-2.0",
        "this license agreement is between the python software foundation psf",
        "beopen python open source license agreement",
    ),
    ("PSF-2.0", "licensed to psf under a contributor agreement", ""),
    ("Unlicense", "this is free and unencumbered software released into the public domain", ""),
    (
        "Zlib",
        "permission is granted to anyone to use this software for any purpose "
        "including commercial applications",
        "",
    ),
    ("libpng-2.0", "png reference library license version 2", ""),
    (
        "TCL",
        "this software is copyrighted by the regents of the university of california sun microsystems + "
        "the authors hereby grant permission to use copy modify distribute and license this software",
        "",
    ),
    ("CC0-1.0", "cc0 1 0 universal | creativecommons org publicdomain zero 1 0", ""),
    ("CC-BY-4.0", "creative commons attribution 4 0 international", ""),
    ("CC-BY-SA-4.0", "creative commons attribution sharealike 4 0 international", ""),
    ("CC-BY-NC-4.0", "creative commons attribution noncommercial 4 0 international", ""),
    ("BSL-1.0", "boost software license version 1 0", ""),
    ("EPL-2.0", "eclipse public license v 2 0 | eclipse public license version 2 0", ""),
    ("EPL-1.0", "eclipse public license v 1 0 | eclipse public license version 1 0", ""),
    ("EUPL-1.2", "european union public licence v 1 2", ""),
    ("CDDL-1.0", "common development and distribution license cddl version 1 0", ""),
    ("Artistic-2.0", "the artistic license 2 0", ""),
    (
        "NCSA",
        "university of illinois ncsa open source license | "
        "redistributions of source code + deal with the software without",
        "",
    ),
    ("OFL-1.1", "sil open font license version 1 1", ""),
    ("MS-PL", "microsoft public license ms pl", ""),
    ("WTFPL", "do what the fuck you want to public license", ""),
    ("Unicode-3.0", "unicode license v3", ""),
    ("PostgreSQL", f"postgresql license | {HPND} without fee and without a written agreement", ""),
)
# How packages write the name of a licence where SPDX expects its identifier, as `words` normalises it.
DECLARED = {
    "mit license": "MIT",
    "the mit license": "MIT",
    "the mit license mit": "MIT",
    "expat license": "MIT",
    **dict.fromkeys(("mit licence", "mit x11", "mit x11 license", "mit expat", "expat"), "MIT"),
    **dict.fromkeys(
        (
            "the apache software license version 2 0",
            "apache software license version 2 0",
            "apache 2 0 license",
            "apache license v2",
            "apache license 2",
            "apache public license 2 0",
        ),
        "Apache-2.0",
    ),
    **dict.fromkeys(("bsd3", "bsd 3 clause", "the bsd 3 clause license"), "BSD-3-Clause"),
    **dict.fromkeys(("bsd2", "bsd 2 clause", "the bsd 2 clause license"), "BSD-2-Clause"),
    **dict.fromkeys(("zlib license", "the zlib license"), "Zlib"),
    **dict.fromkeys(
        ("boost software license 1 0", "boost software license version 1 0"), "BSL-1.0"
    ),
    **dict.fromkeys(
        (
            "apache 2 0",
            "apache2",
            "apache 2",
            "apache license 2 0",
            "apache license version 2 0",
            "apache software license 2 0",
            "asl 2 0",
        ),
        "Apache-2.0",
    ),
    **dict.fromkeys(
        ("the apache license version 2 0", "apache v2", "apache license v2 0"), "Apache-2.0"
    ),
    **dict.fromkeys(
        (
            "bsd 3 clause license",
            "3 clause bsd license",
            "new bsd license",
            "new bsd",
            "modified bsd license",
        ),
        "BSD-3-Clause",
    ),
    **dict.fromkeys(
        ("bsd 3", "3 clause bsd", "bsd 3 clause new or revised license", "revised bsd"),
        "BSD-3-Clause",
    ),
    **dict.fromkeys(
        (
            "bsd 2 clause license",
            "simplified bsd license",
            "simplified bsd",
            "2 clause bsd license",
        ),
        "BSD-2-Clause",
    ),
    **dict.fromkeys(("isc license", "iscl", "isc license iscl"), "ISC"),
    **dict.fromkeys(
        ("mpl 2 0", "mozilla public license 2 0", "mozilla public license 2 0 mpl 2 0"), "MPL-2.0"
    ),
    **dict.fromkeys(
        ("psf", "psf license", "python software foundation license", "psfl"), "PSF-2.0"
    ),
    **dict.fromkeys(("the unlicense unlicense", "the unlicense"), "Unlicense"),
    **dict.fromkeys(("gplv2", "gnu general public license v2 gplv2"), "GPL-2.0-only"),
    **dict.fromkeys(("gplv2+", "gnu general public license v2 or later gplv2"), "GPL-2.0-or-later"),
    **dict.fromkeys(("gplv3", "gpl v3", "gnu general public license v3 gplv3"), "GPL-3.0-only"),
    **dict.fromkeys(("gplv3+", "gnu general public license v3 or later gplv3"), "GPL-3.0-or-later"),
    **dict.fromkeys(("gnu lesser general public license v3 lgplv3", "lgplv3"), "LGPL-3.0-only"),
    **dict.fromkeys(
        ("gnu lesser general public license v3 or later lgplv3", "lgplv3+"), "LGPL-3.0-or-later"
    ),
    **dict.fromkeys(("gnu lesser general public license v2 lgplv2", "lgplv2"), "LGPL-2.0-only"),
    **dict.fromkeys(
        ("gnu lesser general public license v2 or later lgplv2", "lgplv2+"), "LGPL-2.0-or-later"
    ),
    "gnu affero general public license v3": "AGPL-3.0-only",
    "gnu affero general public license v3 or later agplv3": "AGPL-3.0-or-later",
    "zlib libpng license": "Zlib",
    "cc0 1 0 universal cc0 1 0 public domain dedication": "CC0-1.0",
    "boost software license 1 0 bsl 1 0": "BSL-1.0",
    "university of illinois ncsa open source license": "NCSA",
}
NOT_WORD = re.compile(r"[^a-z0-9+]+")
INVISIBLE = re.compile("[\u00ad\u200b-\u200d\u2060\ufeff]")  # soft hyphens, joiners
# One of several licences that a sentence leaves the choice of.
CHOICE = re.compile(
    r"(?:dual|double|tri|triple"
    r"|multi) ?licensed under (?:either )?(?:of )?(?:the )?(?:terms of )?(?:either )?(?:the )?"
    r"(mit|bsd 3 clause|bsd 2 clause|apache 2 0|isc) (?:licen[cs]e )?or (?:the )?(?:gnu )?(?:l?gpl"
    r"|general|lesser)"
)
CHOSEN = {
    "mit": "MIT",
    "bsd 3 clause": "BSD-3-Clause",
    "bsd 2 clause": "BSD-2-Clause",
    "apache 2 0": "Apache-2.0",
    "isc": "ISC",
}


def words(text: str) -> str:
    """Lower-case words between single spaces, so that line breaks, comment signs and quotes make no
    difference.
    """
    if not text.isascii():
        # Ligatures and full-width letters, as copied from other documents.
        text = unicodedata.normalize("NFKC", INVISIBLE.sub("", text))
    return NOT_WORD.sub(" ", text.lower()).strip()


def _compile() -> tuple[tuple[str, list[list[str]], list[str]], ...]:
    def split(text: str) -> list[list[str]]:
        return [one.split(" + ") for one in text.split(" | ") if one]

    return tuple(
        (spdx, split(yes), [no for (no,) in split(noes)]) for spdx, yes, noes in SIGNATURES
    )


# Once, at import: every file of a corpus is compared with every signature.
COMPILED = _compile()


def licence_of_text(text: str) -> str:
    """The licences that a text holds or grants, joined by AND (all that is granted is bound by all of
    them); "" for none we know. One that holds a permissive licence and conditions beside it is also OTHER.
    """
    plain = words(text)
    licence = granted(plain)
    # A text that we do not know and that keeps rights back is none beside which others count alone.
    return OTHER if not licence and STRONG.search(plain) else with_other(licence, plain)


def with_other(licence: str, text: str, near: int | None = None) -> str:
    """The licence, with OTHER where a permissive one alone was found and the words around it bind further."""
    # The other licence of a choice binds nobody who takes this one.
    rest = CHOICE.sub(" ", text)
    if licence and allowed(licence, PERMISSIVE) and binds_further(rest, near=near):
        return f"{licence} AND {OTHER}"
    return licence


def granted(text: str) -> str:
    """The licences whose words a text has, of lower-case words between single spaces."""
    # Most texts are no licences, and every licence we know has one of these words.
    if "licen" not in text and "permi" not in text and "public" not in text:
        return ""
    granted = []
    for spdx, choices, no in COMPILED:
        if (
            spdx not in granted
            and any(all(p in text for p in choice) for choice in choices)
            and not any(p in text for p in no)
        ):
            granted.append(spdx)
    if not granted and (choice := CHOICE.search(text)):
        granted.append(CHOSEN[choice[1]])
    # The LGPL 3 is a supplement to the GPL 3, whose text is shipped with it.
    if any(spdx.startswith("LGPL-3") for spdx in granted):
        granted = [spdx for spdx in granted if not spdx.startswith("GPL-3")]
    return " AND ".join(sorted(granted))


def expression(declared: str) -> str:
    """A declared licence as an SPDX expression: one already, a common name, or a whole licence text; ""
    when it is none of these.
    """
    declared = declared.strip().strip("\"'")
    try:
        return (
            canonicalize_license_expression(declared)
            if len(declared) < 200
            else licence_of_text(declared)
        )
    except InvalidLicenseExpression:
        return DECLARED.get(words(declared)) or licence_of_text(declared)


def allowed(licence: str, allow: tuple[str, ...]) -> bool:
    """Whether the SPDX expression can be met with licences of `allow` alone (`MIT OR GPL-2.0-only` can with
    MIT).
    """
    # "GPL-2.0-only WITH exception" is one licence: the plus signs keep it one token.
    tokens = re.findall(r"[()]|[^\s()]+", re.sub(r"\s+WITH\s+", "+WITH+", licence))

    def one_of() -> bool:
        value = all_of()
        while tokens and tokens[0] == "OR":
            tokens.pop(0)
            # `all_of` first: it consumes tokens, which a short-circuit would leave.
            value = all_of() or value
        return value

    def all_of() -> bool:
        value = one()
        while tokens and tokens[0] == "AND":
            tokens.pop(0)
            value = one() and value
        return value

    def one() -> bool:
        token = tokens.pop(0)
        if token == "(":
            value = one_of()
            tokens.pop(0)
            return value
        return token.replace("+WITH+", " WITH ") in allow or token.split("+WITH+")[0] in allow

    return one_of()
