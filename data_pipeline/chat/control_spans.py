"""Where the control pieces of a rendered conversation are."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from data_pipeline.chat.rendering import OWN, Stretch, text_of
from data_pipeline.tokenizers.hugging_face import Special

# White space as the library of tokenizer files has it (Unicode's White_Space), which Python's \s exceeds.
SPACES = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)


class Control(NamedTuple):
    """Characters `start` up to `end` of a rendering: the piece `id`, and white space that it takes along."""

    start: int
    end: int
    id: int


def control_pattern(special: Mapping[str, Special]) -> re.Pattern[str]:
    """Any control piece; of two that begin alike, the longer."""
    # the first alternative that matches is taken, so longer ones come first
    pieces = sorted(special, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, pieces)))


def control_spans(
    stretches: Sequence[Stretch], pattern: re.Pattern[str], special: Mapping[str, Special]
) -> list[Control]:
    """The control pieces that a template wrote: those whose letters are all its own, in one stretch. In the
    content of a message the same letters are plain text.
    """
    text = text_of(stretches)
    spans: list[Control] = []
    offset = 0
    for stretch in stretches:
        # A pattern of no pieces would match everywhere, and mean nothing.
        matches = pattern.finditer(stretch.text) if stretch.origin == OWN and special else ()
        for match in matches:
            piece = special[match[0]]
            start = offset + match.start()
            end = offset + match.end()
            if piece.strips_left:
                # not further than the piece before, which has taken its own
                floor = spans[-1].end if spans else 0
                start = max(floor, len(text[:start].rstrip(SPACES)))
            if piece.strips_right:
                end = len(text) - len(text[end:].lstrip(SPACES))
            # white space that the piece before has taken
            spans.append(Control(max(start, spans[-1].end if spans else 0), end, piece.id))
        offset += len(stretch.text)
    return spans
