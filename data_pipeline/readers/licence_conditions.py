"""What a licence's text says beyond the permissive licence that it holds: conditions of its own, which make
it another licence.

The texts of the permissive licences are in permissive_licences.txt.gz, as SPDX's licence list has them.
"""

import functools
import gzip
import re
from pathlib import Path

TEXTS = Path(__file__).with_name("permissive_licences.txt.gz")
RUN = 4  # words: shorter runs of a licence's words stand in any text about software
NEAR = (
    60  # words around a licence in the head of a file that can bind it; further off the file speaks
)
# Words that a condition cannot do without. Titles, names and copyrights have none of them.
BINDING = re.compile(
    r"must|shall|may|can|cannot|not|no|nor|never|without|unless|until|except\w*|exclu\w+|only|solely"
    r"|prohibit\w*|forbid\w*|forbidden|restrict\w*|limit\w*|condition\w*|require\w*|oblig\w+|provided"
    r"|subject|grants|granted|permi\w+|allow\w*|revok\w+|terminat\w+|expires?|effective|agree\w*|consent"
    r"|sell\w*|sale|resale|fees?|royalt\w+|pay\w*|commercial\w*|noncommercial"
    r"|military|nuclear|weapons?|evil|patents?|trademarks?|endorse\w*|advertis\w+|acknowledg\w+|export"
    r"|copyleft|proprietary|confidential|derivatives?|redistribut\w+|relicens\w+"
    r"|indemnif\w+|warrant\w+|liab\w+|gpl|lgpl|agpl"
)
# In the head of a file, whose other sentences are about its code: without the words that such prose is of.
BINDING_HEAD = re.compile(
    r"shall|prohibit\w*|forbid\w*|forbidden|restrict(?:ed|ions?)|conditions|oblig\w+|granted|permi(?:t"
    r"|tted|ssion)"
    r"|revok\w+|sell|sale|resale|fees?|royalt\w+|commercial\w*|noncommercial|academic|military|nuclear"
    r"|weapons?"
    r"|evil|patents?|trademarks?|endorse\w*|advertis\w+|acknowledg\w+|copyleft|proprietary|redistribut\w+"
    r"|warrant\w+|liab\w+|indemnif\w+|solely|required|exporting|relicens\w+|must|a?l?gpl(?:v?[0-9])?"
)
# Said around licences without binding anybody.
HARMLESS = (
    "all rights reserved",
    "license agreement",
    "open source license",
    "open source initiative",
    "free software license",
    "this software is licensed under the terms of the",
    "this project is licensed under the terms of the",
    "licensed under the mit license",
    "this file may not be copied modified or distributed except according to those terms",
    "see the license file for details",
    "see the license for the specific language governing permissions and limitations",
    "source code is governed by a bsd style license that can be found in the license file",
    "source code is governed by an mit style license that can be found in the license file",
    "some rights reserved",
    "redistribution and use of the software in source and binary forms",
    "this file is free software",
    "neither the name of the copyright holders nor those of its contributors may be used to endorse",
    "the names of the contributors may not be used to endorse or promote products derived from",
    "the names of its contributors may not be used to endorse or promote products derived from",
)
# Whoever says one of these grants less than the licence that he may quote.
STRONG = re.compile(
    r"commons clause|for non ?commercial|non ?commercial use only|not for commercial"
    r"|business source license|functional source license|server side public license|elastic license"
    r"|polyform|change date|good not evil|source available|unauthori[sz]ed (?:copying|reproduction)"
    r"|(?:proprietary and confidential|confidential and proprietary)"
    r"|enterprise (?:edition )?licen[cs]e|commercial licen[cs]e agreement|subscription agreement"
    r"|export of this software|shall be modified such that the original author"
    r"|evaluation purposes|no (?:license|licence|permission) is granted|all uses? (?:is|are) prohibited"
)


@functools.cache
def known_runs() -> frozenset[tuple[str, ...]]:
    """Every run of RUN words of the permissive licences, and of what is said around them."""
    texts = [*gzip.decompress(TEXTS.read_bytes()).decode().split("\n"), *HARMLESS]
    return frozenset(run for text in texts for run in runs_of(text.split()))


def runs_of(words: list[str]) -> list[tuple[str, ...]]:
    """All runs of RUN words, in order; the words themselves where there are fewer."""
    if len(words) < RUN:
        return [tuple(words)]
    return list(zip(*(words[i:] for i in range(RUN)), strict=False))


def binds_further(text: str, *, near: int | None = None) -> bool:
    """Whether a text that holds a permissive licence has conditions beside it; with `near` only that many
    words around the licence count. The text is lower-case words between single spaces.
    """
    if STRONG.search(text):
        return True
    words = text.split()
    is_known = [False] * len(words)
    for start, run in enumerate(runs_of(words)):
        if run in known_runs():
            is_known[start : start + RUN] = [True] * min(RUN, len(words) - start)
    # Distances to the licence's words before and after, in one pass each way.
    distance = [len(words)] * len(words)
    for order in (range(len(words)), range(len(words) - 1, -1, -1)):
        n_words = len(words)
        for i in order:
            n_words = 0 if is_known[i] else n_words + 1
            distance[i] = min(distance[i], n_words)
    most = len(words) if near is None else near
    own = (word for word, far in zip(words, distance, strict=True) if 0 < far <= most)
    binding = BINDING if near is None else BINDING_HEAD
    return any(binding.fullmatch(word) for word in own)
