"""Real and random texts for the tests of cleaning rules, and what a rule does with them.

RUSSIAN, CHINESE and JAPANESE are excerpts of the Debian Administrator's Handbook, © 2003-2015 Raphaël
Hertzog, Roland Mas and translators, licence CC-BY-SA-3.0 (or GPL-2.0-or-later).
"""

import unicodedata

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from data_pipeline.clean.characters import UNSPACED_BLOCKS
from data_pipeline.documents.document import Document, content_id
from data_pipeline.stages.judge import breaks

ENGLISH = """The bisect module keeps a list in sorted order without having to sort the list after each insertion.
For long lists of items with expensive comparison operations, this can be an improvement over the more common approach.
The module is called bisect because it uses a basic bisection algorithm to do its work, and the source code may be most
useful as a working example of the algorithm that you have read about in a book.
"""
RUSSIAN = """15.4.1.1. Правила

Пакет Debian должен подчиняться чётким правилам, сведённым в политику Debian, и каждый сопровождающий пакета должен знать их. Не требуется
вызубрить их наизусть, но нужно знать, что они существуют, и обращаться к ним всякий раз, сталкиваясь с нетривиальным выбором. Каждый
сопровождающий Debian совершал ошибки, не зная о правиле, однако это не особо страшно, если ошибка исправлена после того, как пользователь
отправил отчёт о ней (что, как правило, происходит довольно быстро благодаря продвинутым пользователям).

15.4.1.2. Методика

Debian — это не просто набор отдельных пакетов. Работа каждого по пакетированию является частью коллективного проекта; быть разработчиком
Debian — значит знать каким образом проект Debian работает как единое целое.
"""
CHINESE = """15.4.1.1. 规则

Debian 软件包必须遵守 Debian 政策中编译的精确规则，并且每位软件包维护者必须知道这些规则。并不要求把它们记在心理，而无论何时选项中出现了不那么琐碎的替代方案，都要知道它们存在并去查阅它们。每位 Debian 维护者都会因为不知道规则而犯错误，但只要当用户将其作为故障报告而汇报时错误能得到修复。

Debian 不是独立软件包的简单集合。每个人的打包工作都是集体项目的一部分；成为 Debian 开发者包括了解 Debian 项目作为整体如何运作。
"""  # noqa: E501
JAPANESE = """Debian は各パッケージを単純に収集しているだけではありません。全員のパッケージング作業は共同プロジェクトの一部です。
そして Debian 開発者になるには、Debian プロジェクトが全体としてどのように運営されているかを知る必要があります。
"""
THAI = "เดเบียนเป็นระบบปฏิบัติการเสรีสำหรับคอมพิวเตอร์ของคุณ และมีซอฟต์แวร์ที่ใช้ได้จำนวนมาก\n"
REAL = {
    "en": ENGLISH,
    "ru": RUSSIAN,
    "zh": CHINESE,
    "ja": JAPANESE,
    "th": THAI,
    "": ENGLISH + RUSSIAN,
    "xx": CHINESE + ENGLISH,
}
PIECES = (
    *'a bb The be. to, of! word WORD 12 1,000 #tag # ... wait... … - • * — {x} lorem ipsum [1] [edit] don’t (yes.) "so?"'.split(),
    *"в и НА слово, слово. 的 软件包。 の データ ที่ดี é 😀 \u0301 javascript cookie 3 likes Sign-in".split(),
    *(" ", "  ", "\t", "\n", "\n", "\n\n", "\n \n", "\u00a0", "\u3000"),
)
LAW = settings(max_examples=60)  # the first example builds tables and loads models
# Few pieces, so that runs of them repeat; and any characters at all.
PLAYED = st.lists(
    st.sampled_from(PIECES).flatmap(lambda piece: st.sampled_from((piece, f"{piece} "))),
    max_size=60,
).map("".join)
ANY = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
TEXTS = st.lists(st.tuples(st.one_of(PLAYED, ANY), st.sampled_from(sorted(REAL))), max_size=5)


def document(text: str, language: str = "en", source: str = "web", path: str = "p") -> Document:
    return Document(content_id(text), text, source, path, "g", language)


def documents_of(pairs) -> list[Document]:
    return [document(text, language) for text, language in pairs]


def words_of(text: str) -> list[str]:
    """What `words.py` calls words, one character at a time."""
    words: list[str] = []
    for token in text.split():
        word = ""
        for character in token:
            if (
                word
                and not is_mark(character)
                and (is_unspaced(character) or is_unspaced(word[-1]))
            ):
                words.append(word)
                word = ""
            word += character
        words.append(word)
    return words


def is_unspaced(character: str) -> bool:
    return any(first <= ord(character) <= last for first, last in UNSPACED_BLOCKS)


def is_mark(character: str) -> bool:
    return is_unspaced(character) and unicodedata.category(character) in ("Mn", "Mc")


def lines_of(text: str) -> list[str]:
    """Lines that are not blank, without the white space around them."""
    return [line.strip() for line in text.split("\n") if line.strip()]


def belongs_to_letters(character: str) -> bool:
    """A mark that makes one letter of another, as in Indic scripts; variation selectors make none."""
    is_variation = 0xFE00 <= ord(character) <= 0xFE0F or 0xE0100 <= ord(character) <= 0xE01EF
    return not is_variation and unicodedata.category(character) in ("Mn", "Mc")


def is_letter(character: str) -> bool:
    return character.isalpha() or belongs_to_letters(character)


def is_alphanumeric(character: str) -> bool:
    return character.isalnum() or belongs_to_letters(character)


def has_alphanumeric(word: str) -> bool:
    return any(map(is_alphanumeric, word))


def signals_of(rule, text: str, language: str = "en") -> dict[str, float]:
    _, signals = rule.annotate([document(text, language)])
    return {name: values[0] for name, values in signals.items()}


def verdict(rule, text: str, language: str = "en") -> tuple[str, str | None]:
    """The text as the rule leaves it, and the reason of the first limit that it breaks."""
    documents, signals = rule.annotate([document(text, language)])
    languages = np.array([documents[0].language], object)
    for limit in rule.limits():
        value = np.array([signals[limit.signal][0]], float)
        if breaks(value, float(limit.least), limit, languages).all():
            return documents[0].text, limit.reason
    return documents[0].text, None


def assert_alone_as_in_a_batch(rule, documents: list[Document]) -> None:
    """What a rule does with a document does not depend on the others."""
    together, signals = rule.annotate(documents)
    for number, one in enumerate(documents):
        (alone,), own = rule.annotate([one])
        assert alone == together[number]
        assert {name: str(values[0]) for name, values in own.items()} == {
            name: str(values[number]) for name, values in signals.items()
        }
