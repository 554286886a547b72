"""Whether a model's answer is the right one: by its final number, as GSM8K is graded, or by its text."""

import re
from decimal import Decimal

# a minus behind a word or digit is none: 7-5
NUMBER = r"(?:(?<![\w)])-)?\$?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)"


def same_number(answer: str, wanted: str) -> bool:
    """Whether the final numbers are equal in value. lm-evaluation-harness compares their digits: there 18.0
    is not 18.
    """
    number = final_number(answer)
    return number is not None and number == final_number(wanted)


def final_number(text: str) -> Decimal | None:
    """What stands behind the first `####`, GSM8K's mark, else the last number: strict-match and
    flexible-extract of that harness.
    """
    text = text.replace("−", "-")  # U+2212, which models that write typography use
    # the first mark: a model that goes on often asks itself the next question, with a mark of its own
    marked = re.search(rf"####\s*({NUMBER})", text)
    numbers = [marked[1]] if marked else re.findall(NUMBER, text)
    return Decimal(re.sub("[$,]", "", numbers[-1])) if numbers else None


def same_text(answer: str, wanted: str) -> bool:
    """Whether the texts are equal but for capitals, white space and a full stop at the end."""
    return _plain(answer) == _plain(wanted)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).removesuffix(".")
