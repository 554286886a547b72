"""What personal data looks like, what it is not, and what takes its place."""

import ipaddress
import itertools
import re
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from data_pipeline.clean.replace import choice, dense, line_before

PiiKind = Literal["email", "ip", "phone", "iban", "card"]
Candidates = tuple[np.ndarray, np.ndarray]  # first and last positions around which to look, sorted


class Pattern(NamedTuple):
    """One form of personal data.

    Attributes:
        kind: Which it is.
        regex: What it looks like.
        candidates: (byte of each character, positions of digits) → where the regex is worth trying.
        before, after: Within how many characters of there a match begins and ends.
        replace: match → its replacement, or "" when it is none.
    """

    kind: PiiKind
    regex: re.Pattern
    candidates: Callable[[np.ndarray, np.ndarray], Candidates]
    before: int
    after: int
    replace: Callable[[re.Match], str]


# The generic top-level domains most in use; of two letters all are. Without a list, image@2x.png and
# x@self.weight would be addresses.
TOP_LEVEL = (
    "academy|agency|app|biz|blog|cat|center|cloud|club|com|company|coop|design|dev|digital|edu|email|expert"
    "|global|gov|group|guru|health|help|info|ink|int|international|io|jobs|life|link|live|ltd|mail|market"
    "|media|mil|mobi|moscow|museum|name|net|network|news|ngo|ninja|one|online|ooo|org|page|plus|press|pro|pub"
    "|science|shop|site|solutions|space|store|studio|systems|team|tech|technology|tel|today|tools|top|travel"
    "|university|vip|website|wiki|work|works|world|xyz|zone|рф|рус|бел|укр|москва|сайт|онлайн|орг|дети"
    "|[a-z][a-z]"
)
EMAIL_REGEX = re.compile(
    rf"(?<![\w.%+&-])[\w.%+&-]{{1,64}}@(?P<domain>(?:[\w-]{{1,63}}\.){{1,8}}(?:{TOP_LEVEL}))(?![\w-]|\.\w)",
    re.IGNORECASE,
)
RESERVED_DOMAIN = re.compile(r"(?:^|\.)example\.(?:com|net|org)$", re.IGNORECASE)


def no_candidates(chars: np.ndarray, digits: np.ndarray) -> Candidates:
    """For what is found by a literal."""
    return digits[:0], digits[:0]


def email(match: re.Match) -> str:
    """`user1234@example.com`; `git@` is how repositories are written, and names nobody."""
    if RESERVED_DOMAIN.search(match["domain"]) or match[0].lower().startswith("git@"):
        return ""
    # 10,000 users at each of three domains: equal addresses get equal replacements.
    number = choice(match[0].lower(), 30_000)
    return f"user{number % 10_000:04d}@example.{('com', 'net', 'org')[number // 10_000]}"


# What makes four numbers a version or a section: the word before them, a comparison, a product's name and a
# slash
VERSION = re.compile(
    r"(?:\b(?:v|ver|vers|version|release|rev|revision|build|firmware|oid|section|chapter"
    r"|верс\w*|сборк\w*|раздел\w*|глав\w*)[.:=\s\"']*"
    r"|[=<>~!]=\s*|\w/|\^)$",
    re.IGNORECASE,
)
# with fewer than two numbers from here on, it reads as a version or a section: as does one address in 150
SMALL = 32
# Roots of object identifiers: ITU-T 0, ISO 1.0 to 1.3, joint 2.5, 2.16, 2.23. Hardly an address begins so.
OID_ROOT = re.compile(r"0\.|1\.[023]\.|2\.(?:5|16|23)\.")
EXAMPLE_ADDRESSES = frozenset(("123.45.67.89", "12.34.56.78", "123.123.123.123"))
IPV4_REGEX = re.compile(r"(?<![\w.-])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?!\w|\.\w|-\w)")
IPV6_REGEX = re.compile(
    r"(?<![\w:.])[23][0-9a-f]{3}(?:::?[0-9a-f]{1,4}){0,7}(?:::)?(?![\w]|:\w)", re.IGNORECASE
)


def dotted(chars: np.ndarray, digits: np.ndarray) -> Candidates:
    """Three dots between digits within ten characters."""
    return dense(digits[(chars[digits + 1] == ord(".")) & is_digit(chars[digits + 2])], 3, 10)


def coloned(chars: np.ndarray, digits: np.ndarray) -> Candidates:
    """2 or 3, three characters, a colon: global unicast addresses (2000::/3), and few times of day."""
    candidates = digits[
        (chars[digits + 4] == ord(":"))
        & ((chars[digits] == ord("2")) | (chars[digits] == ord("3")))
    ]
    return candidates, candidates


def is_digit(chars: np.ndarray) -> np.ndarray:
    """Which bytes are ASCII digits."""
    return (chars - np.uint8(ord("0"))) < 10


def ipv4(match: re.Match) -> str:
    """An address of 192.0.2.0/24, 198.51.100.0/24 or 203.0.113.0/24."""
    # `1.2.3.4` and `10.0.0.1` are versions or private; at least two large numbers make an address.
    numbers = [int(part) for part in match[0].split(".")]
    if (
        sorted(numbers)[-2] < SMALL
        or match[0] in EXAMPLE_ADDRESSES
        or OID_ROOT.match(match[0])
        or VERSION.search(line_before(match, 20))
        or not is_global(match[0])
    ):
        return ""
    number = choice(match[0], 3 * 254)
    return f"{('192.0.2', '198.51.100', '203.0.113')[number // 254]}.{number % 254 + 1}"


def ipv6(match: re.Match) -> str:
    """A replacement in 2001:db8::/32, the range reserved for documentation."""
    if not is_global(match[0]):
        return ""
    number = choice(ipaddress.ip_address(match[0]).exploded, 1 << 32)
    return f"2001:db8::{number >> 16 or 1:x}:{number & 0xFFFF or 1:x}"


def is_global(address: str) -> bool:
    """Whether it is an address that somebody can have on the public internet."""
    try:
        parsed = ipaddress.ip_address(address)
        return parsed.is_global and not parsed.is_multicast
    except ValueError:
        return False


# Before each further digit: a space, dot, slash or hyphen, a bracket, and again one of them.
# Atomic, because a lone sign may be of either and the ways to share out thirteen of them are 2^13.
NEXT = r"(?>[ ./\-\u00a0\u2010-\u2013]{0,2}[()]?[ /\-\u00a0]{0,2}[0-9])"
PHONE_REGEX = re.compile(
    r"(?:"
    # E.164; North America and Russia: eleven digits
    rf"(?<![\w+])\+(?:[17]{NEXT}{{10}}|[2-689]{NEXT}{{9,13}})"
    r"|(?<![\w.+/:-])(?:(?:1[-. ])?(?:\([2-9][0-9]{2}\) ?[2-9][0-9]{2}[-. ]"
    r"|[2-9][0-9]{2}(?P<gap>[-.])[2-9][0-9]{2}(?P=gap))[0-9]{4}"
    # 8 (495) 123-45-67, 8(495)739-70-00
    r"|8[ -]?(?:\([3489][0-9]{2}\)[ -]?|[3489][0-9]{2}[ -])[0-9]{3}[ -]?[0-9]{2}[ -]?[0-9]{2}"
    r"|8[ -]?\([3489][0-9]{3,4}\)[ -]?[0-9]{1,2}(?:-?[0-9]{2}){2}"  # 8 (48535) 2-31-00
    r"|89[0-9]{9}"  # a Russian mobile number
    # 0049 and an area code, or another country's code with a gap behind it
    r"|0049[ -]?(?:\(0\))?(?:[ /-]?[0-9]){8,11}"
    r"|(?<![0-9] )00[2-9][0-9]{1,2}[ /-](?:\(0\)[ ]?)?[1-9](?:[ /-]?[0-9]){6,10}(?! [0-9])"
    # Germany: 030 12345678, (089) 123 45-67, 0171/1234567
    r"|(?P<german>(?:\(0[1-9][0-9]{1,4}\)|0[1-9][0-9]{1,4})[ ]?[ /\u2013-][ ]?"
    r"[0-9]{2,8}(?:[ -][0-9]{1,5}){0,3})"
    # France: five pairs, among no others
    r"|(?<![0-9] )(?P<french>0[1-9](?:(?P<pairs>[ .])[0-9]{2})(?:(?P=pairs)[0-9]{2}){3})(?![ ][0-9])"
    r"|\([1-9][0-9]\) ?9?[0-9]{4}-[0-9]{4}"  # Brazil
    r"|1[3-9][0-9](?P<chinese>[ -])[0-9]{4}(?P=chinese)[0-9]{4})"
    r")(?!\w|[-./]\w)"
)
# A word for a telephone in the languages of the web, then any number long enough.
CALLED_REGEX = re.compile(
    r"(?<!\w)(?:tel|t[eé]l[eé](?:phone|fono?|fone)?s?|telefon\w{0,4}|fon|phone|ruf\w{0,9}|(?:tele)?fax"
    r"|mobil\w{0,8}"
    r"|handy|cell|hotline|whatsapp|viber|тел|телефон\w{0,3}|факс|моб|звон\w{1,6}|điện thoại|โทร|هاتف"
    r"|טלפון|تلفن"
    r"|전화|[联聯]?[系繫]?[电電][话話]|手[机機]|传真|傳真)"
    r"(?:[ ](?:number|nr|no|nummer|num[eé]ro|номер)\b)?[ .:：/)]{0,4}"
    rf"(?P<number>\+?\(?[0-9]{NEXT}{{8,13}})(?!\w|[-./:]\w)",
    re.IGNORECASE,
)
DATE = re.compile(
    r"(?:19|20)[0-9]{2}[-./][0-9]{1,2}[-./][0-9]{1,2}|[0-9]{1,2}[-./][0-9]{1,2}[-./](?:19|20)[0-9]{2}"
)
# dolma: neither within 100 characters of one of the words nor of "#"; here "#" must stand before the number
# itself
OTHER_NUMBER = re.compile(r"\b(?:isbn|issn|doi|arxiv|инн|огрн|снилс)\b|[#№]\s?$", re.IGNORECASE)
AREAS = (
    "202",
    "206",
    "212",
    "303",
    "305",
    "312",
    "404",
    "415",
    "503",
    "512",
    "602",
    "617",
    "702",
    "713",
    "808",
    "919",
)


MOBILE = re.compile(r"01[567]")
# One of two numbers with a point that stand together: degrees, or measurements.
DECIMAL = re.compile(r"\+?[0-9]{1,3}\.[0-9]+")
NEIGHBOUR = re.compile(r"\s?(?:°|[,;]\s?[+-]?[0-9]{1,3}\.[0-9])")
NEIGHBOUR_BEFORE = re.compile(r"[0-9]\.[0-9]+°?\s?[NSEW]?[,;]\s?$")


def is_german(match: re.Match) -> bool:
    """Whether a number with a zero in front is one to call in Germany."""
    digits = only_digits(match[0])
    if not 9 <= len(digits) <= 12:
        return False
    # Without slash or brackets it may be any number with a zero in front.
    return bool(
        "/" in match[0] or "(" in match[0] or (MOBILE.match(digits) and len(digits) in (11, 12))
    )


def is_french(match: re.Match) -> bool:
    """Whether five pairs are no row, as of a lottery or of pages."""
    pairs = [int(pair) for pair in re.findall("[0-9]{2}", match[0])]
    steps = {after - before for before, after in itertools.pairwise(pairs)}
    return len(steps) > 1


def is_decimal(match: re.Match) -> bool:
    """Whether it is a number with a point, beside another one."""
    after = match.string[match.end() : match.end() + 12]
    return DECIMAL.fullmatch(match[0]) is not None and bool(
        NEIGHBOUR.match(after) or NEIGHBOUR_BEFORE.search(line_before(match, 24))
    )


def nine_digits(chars: np.ndarray, digits: np.ndarray) -> Candidates:
    """Nine digits within 24 characters: German numbers are the shortest."""
    return dense(digits, 9, 24)


def phone(match: re.Match) -> str:
    """`+1-AREA-555-01xx`, which is kept free for fiction."""
    if match["german"] and not is_german(match) or match["french"] and not is_french(match):
        return ""
    return "" if is_decimal(match) else fictional(match, match[0])


def called(match: re.Match) -> str:
    """The same behind a word that says what the number is."""
    at = match.start("number")
    # Payment cards and addresses have patterns of their own.
    if (
        DATE.search(match["number"])
        or CARD_REGEX.match(match.string, at)
        or IPV4_REGEX.match(match.string, at)
    ):
        return ""
    number = fictional(match, match["number"])
    return match[0][: match.start("number") - match.start()] + number if number else ""


def fictional(match: re.Match, number: str) -> str:
    """What takes the number's place; "" where it is kept free already, or named as something else."""
    digits = only_digits(number)
    free = len(digits) in (10, 11) and digits[-7:-2] == "55501" and number[0] != "8"
    if free or OTHER_NUMBER.search(line_before(match, 100)):
        return ""
    chosen = choice(digits[-10:], 100 * len(AREAS))  # +7 and 8, +1 and nothing are the same country
    return f"+1-{AREAS[chosen // 100]}-555-01{chosen % 100:02d}"


def only_digits(text: str) -> str:
    """Without what stands between them."""
    return re.sub(r"[^0-9]", "", text)


# ISO 13616: country and number of characters, of the countries of the SWIFT registry
IBAN_LENGTHS = dict(
    (entry[:2], int(entry[2:]))
    for entry in (
        "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 "
        "EE20 EG29 ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 "
        "JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 "
        "NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 "
        "TL23 TN24 TR26 UA29 VA22 VG24 XK20"
    ).split()
)
IBANS = "|".join(
    f"{country}[0-9]{{2}}(?: ?[A-Z0-9]){{{n_chars - 4}}}"
    for country, n_chars in IBAN_LENGTHS.items()
)
IBAN_REGEX = re.compile(rf"(?<![\w+/=-])(?:{IBANS})(?![\w+/=-])")
IBAN_EXAMPLES = (
    "GB82 WEST 1234 5698 7654 32",
    "DE89 3704 0044 0532 0130 00",
    "FR14 2004 1010 0505 0001 3M02 606",
    "CH93 0076 2011 6238 5295 7",
    "NL91 ABNA 0417 1643 00",
    "ES91 2100 0418 4502 0005 1332",
)


def country_and_check_digits(chars: np.ndarray, digits: np.ndarray) -> Candidates:
    """Two capitals and two digits."""
    capital = [(chars[digits - back] - np.uint8(ord("A"))) < 26 for back in (1, 2)]
    candidates = digits[capital[0] & capital[1] & is_digit(chars[digits + 1])]
    return candidates, candidates


def iban(match: re.Match) -> str:
    """An example of the standard, for a number whose check digits are right."""
    value = match[0].replace(" ", "")
    known = value in {example.replace(" ", "") for example in IBAN_EXAMPLES}
    # ISO 7064 mod 97-10: letters are 10 to 35, the first four characters go to the end, the remainder is 1.
    right = int("".join(str(int(char, 36)) for char in value[4:] + value[:4])) % 97 == 1
    return IBAN_EXAMPLES[choice(value, len(IBAN_EXAMPLES))] if right and not known else ""


CARD_REGEX = re.compile(
    r"(?<![\w.+/=-])(?:(?:4[0-9]|5[1-5]|2[2-7]|6[0-9]|35)[0-9]{2}"
    r"(?P<gap>[ -]?)[0-9]{4}(?P=gap)[0-9]{4}(?P=gap)[0-9]{4}"
    r"|3[47][0-9]{2}(?P<gap2>[ -]?)[0-9]{6}(?P=gap2)[0-9]{5})(?![\w/=]|[ .-][0-9])"
)
# Numbers that the schemes publish for tests: Visa, Mastercard, Discover, American Express, JCB
CARD_EXAMPLES = (
    "4111 1111 1111 1111",
    "4012 8888 8888 1881",
    "5555 5555 5555 4444",
    "5105 1051 0510 5100",
    "6011 1111 1111 1117",
    "6011 0009 9013 9424",
    "3782 822463 10005",
    "3714 496353 98431",
    "3530 1113 3330 0000",
    "3566 0020 2036 0505",
)


def fifteen_digits(chars: np.ndarray, digits: np.ndarray) -> Candidates:
    """Fifteen digits within 19 characters."""
    return dense(digits, 15, 19)


def card(match: re.Match) -> str:
    """A number for tests, for one whose last digit is right (Luhn)."""
    value = only_digits(match[0])
    known = value in {example.replace(" ", "") for example in CARD_EXAMPLES}
    # Luhn: every second digit from the right is doubled, and digit sums add up to a multiple of ten.
    doubled = [int(digit) * (1 + i % 2) for i, digit in enumerate(reversed(value))]
    right = sum(n - 9 if n > 9 else n for n in doubled) % 10 == 0
    return CARD_EXAMPLES[choice(value, len(CARD_EXAMPLES))] if right and not known else ""


# 65 before the @: the longest local part (RFC 5321) and what must not stand before it.
EMAIL = Pattern("email", EMAIL_REGEX, no_candidates, 65, 256, email)
NUMERIC = (
    Pattern("ip", IPV4_REGEX, dotted, 4, 16, ipv4),
    Pattern("ip", IPV6_REGEX, coloned, 1, 48, ipv6),
    Pattern("iban", IBAN_REGEX, country_and_check_digits, 3, 48, iban),
    Pattern("card", CARD_REGEX, fifteen_digits, 1, 24, card),
    # 40 before: the longest word for a telephone and what joins it to the number.
    Pattern("phone", CALLED_REGEX, nine_digits, 40, 48, called),
    Pattern("phone", PHONE_REGEX, nine_digits, 8, 48, phone),
)
