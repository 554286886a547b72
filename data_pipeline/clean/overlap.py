"""Whether a text repeats a held-out one: near-duplicates by shared shingles, and shared runs of 13 words."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from data_pipeline.clean.spans import WORD, Span, spans_of, words_of
from data_pipeline.documents.document import Document

SHINGLE_WORDS = 3
NGRAM_WORDS = 13  # GPT-3's decontamination (Brown et al. 2020, C)
SHORT_WORDS = 5  # shorter texts have too few shingles to be alike: they are compared word by word
# Shorter paragraphs (captions, "Example:") are nobody's text, unless they are a docstring's first.
PROSE_WORDS = 8
Words = tuple[str, ...]


def shingles_of(words: Words, n: int = SHINGLE_WORDS) -> set[Words]:
    """The distinct runs of `n` words."""
    # `zip` of n shifted copies gives the runs, and stops with the shortest copy.
    return set(zip(*(words[i:] for i in range(n)), strict=False))


class Ngrams:
    """Runs of 13 words, found in a text in one quick pass: a run begins only where 11 known 3-word shingles
    follow one another.
    """

    def __init__(self) -> None:
        # n-gram → numbers of the texts it is from
        self._texts: dict[Words, set[int]] = defaultdict(set)
        self._links: set[Words] = set()

    def add(self, words: Words, number: int = 0) -> None:
        """Add the n-grams of a text."""
        if len(words) >= NGRAM_WORDS:
            # The 3-word shingles of all known runs: cheap to look up, and a run of 13 needs 11 of them in a
            # row.
            self._links |= shingles_of(words)
            for ngram in shingles_of(words, NGRAM_WORDS):
                self._texts[ngram].add(number)

    def find(self, words: Words) -> Iterator[tuple[int, set[int]]]:
        """(position of its first word, numbers of the texts) of each known n-gram in `words`."""
        run = 0
        linked = map(self._links.__contains__, zip(words, words[1:], words[2:], strict=False))
        # Numbered so that `last - 1` is the first word of the run of 13 that ends with this shingle.
        for last, is_link in enumerate(linked, 1 + SHINGLE_WORDS - NGRAM_WORDS):
            run = run + 1 if is_link else 0
            if run > NGRAM_WORDS - SHINGLE_WORDS and (
                numbers := self._texts.get(words[last - 1 : last - 1 + NGRAM_WORDS])
            ):
                yield last - 1, numbers

    def ranges(self, text: str) -> list[tuple[int, int]]:
        """(start, end) in characters of each known n-gram in `text`."""
        first_words = [position for position, _ in self.find(words_of(text))]
        places = [match.span() for match in WORD.finditer(text)] if first_words else []
        return [(places[i][0], places[i + NGRAM_WORDS - 1][1]) for i in first_words]


class HeldOutIndex:
    """Finds texts that are near-duplicates of held-out ones, or share a run of 13 words with one.

    Two texts of ≥ 5 words are near-duplicates when their sets of 3-word shingles have Jaccard similarity ≥
    `jaccard`; shorter ones when their words are equal. A held-out text is a docstring or its first
    paragraph, or a paragraph of ≥ 8 words.
    """

    def __init__(self, documents: Iterable[Document], *, jaccard: float):
        self.jaccard = jaccard
        self.number: dict[Words, int] = {}  # text, as its words → its number
        self.dropped: set[int] = set()  # numbers of texts given up, see `separate`
        self._sizes: list[int] = []
        # Inverted index: shingle → texts that have it, so that near-duplicates need no comparison with
        # every text.
        self._postings: dict[Words, list[int]] = defaultdict(list)
        self._ngrams = Ngrams()
        for document in documents:
            for span in spans_of(document):
                for words in held_out_texts(span):
                    self._add(words)

    def _add(self, words: Words) -> None:
        if words in self.number:
            return
        number = self.number[words] = len(self.number)
        shingles = shingles_of(words)
        self._sizes.append(len(shingles))
        for shingle in shingles if len(words) >= SHORT_WORDS else ():
            self._postings[shingle].append(number)
        self._ngrams.add(words, number)

    def near(self, words: Words) -> set[int]:
        """Numbers of the held-out texts that `words` is a near-duplicate of."""
        same = {self.number[words]} if words in self.number else set()
        if len(words) < SHORT_WORDS:
            return same - self.dropped
        shingles = shingles_of(words)
        shared = Counter(
            number
            for shingle in shingles & self._postings.keys()
            for number in self._postings[shingle]
        )
        alike = {
            n
            for n, count in shared.items()
            if count >= self.jaccard * (len(shingles) + self._sizes[n] - count)
        }
        return (same | alike) - self.dropped

    def containing(self, words: Words) -> set[int]:
        """Numbers of the held-out texts that share a run of 13 words with `words`."""
        return set().union(*(numbers for _, numbers in self._ngrams.find(words))) - self.dropped

    def matches(self, text: str) -> set[int]:
        """Both: numbers of the held-out texts that `text` repeats."""
        words = words_of(text)
        return self.near(words) | self.containing(words)


def held_out_texts(span: Span) -> Iterable[Words]:
    """The texts of a held-out span that count as its own."""
    for i, unit in enumerate(span.units):
        words = words_of(unit)
        if words and (i < span.lead or len(words) >= PROSE_WORDS):
            yield words
