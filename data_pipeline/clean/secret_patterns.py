"""What keys, tokens and passwords look like, and what only looks like one."""

import base64
import binascii
import math
import re
from collections import Counter

from data_pipeline.clean.replace import line_before

# Published prefixes, with the length or the alphabet that goes with them
TOKENS = re.compile(
    r"(?:(?<![A-Za-z0-9])|(?<=[^A-Za-z0-9]bot))(?:"
    r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}(?![A-Za-z0-9])"  # AWS
    r"|gh[opsur]_[A-Za-z0-9]{36,}|github_pat_\w{40,}|gl(?:pat|rt|dt|ptt|soat|ft|cbt|agent|imt"
    r"|oas)-[\w-]{20,}"
    r"|xox[a-z](?:\.xox[bp])?-[\w-]{16,}|xapp-[\w-]{16,}|hooks\.slack\.com/services/[\w/]{24,}"
    r"|[rs]k_(?:live|test)_[A-Za-z0-9]{16,}|whsec_[A-Za-z0-9+/=]{24,}"  # Stripe
    r"|AIza[\w-]{35}|GOCSPX-[\w-]{28}|ya29\.[\w-]{20,}"  # Google
    # OpenAI, Anthropic, OpenRouter, Groq, Replicate
    r"|sk-(?:proj|svcacct|admin|ant-[a-z0-9]+|or-v1)-[\w-]{20,}|sk-[A-Za-z0-9]{48}(?![\w-])"
    r"|gsk_[A-Za-z0-9]{52}|r8_[A-Za-z0-9]{37}(?!\w)"
    # Registries of packages: npm, PyPI, crates.io, RubyGems, NuGet, Docker Hub
    r"|npm_[A-Za-z0-9]{36}(?!\w)|pypi-AgE[\w-]{40,}|cio[A-Za-z0-9]{32}(?!\w)"
    r"|rubygems_[0-9a-f]{48}|oy2[a-z0-9]{43}(?!\w)|dckr_pat_[\w-]{27}"
    # Mail and messages: SendGrid, Mailgun, Mailchimp, Sendinblue, Twilio
    r"|SG\.[\w-]{16,}\.[\w-]{30,}|key-[0-9a-f]{32}(?!\w)|[0-9a-f]{32}-us[0-9]{1,2}(?!\w)"
    r"|xkeysib-[0-9a-f]{64}|SK[0-9a-f]{32}(?!\w)"
    # Hosts: DigitalOcean, Azure, Databricks, Vault, Terraform, Grafana, New Relic, Supabase
    r"|do[opr]_v1_[0-9a-f]{64}|\w{3}[0-9]Q~[\w.~-]{31,34}|dapi[0-9a-f]{32}(?!\w)|hv[sbr]\.[\w-]{24,}"
    r"|[A-Za-z0-9]{14}\.atlasv1\.[\w-]{60,}|gl(?:sa|c)_[\w+/=]{32,}|NRAK-[A-Z0-9]{27}|sbp_[0-9a-f]{40}"
    # Shops and tools: Shopify, Square, Atlassian, Airtable, Notion, Linear, Postman
    r"|shp(?:at|ss|ca|pa)_[0-9a-fA-F]{32}|sq0[a-z]{3}-[\w-]{22,}|ATATT3[\w=-]{50,}"
    r"|pat\w{14}\.[0-9a-f]{64}|(?:secret|ntn)_[A-Za-z0-9]{43}(?!\w)|lin_api_[A-Za-z0-9]{40}"
    r"|PMAK-[0-9a-f]{24}-[0-9a-f]{34}|AGE-SECRET-KEY-1[A-Z0-9]{58}"
    # Telegram's and Discord's bots, and the addresses of Discord's hooks
    r"|[0-9]{8,10}:AA[\w-]{33}(?![\w-])|[MNO][\w-]{23,25}\.[\w-]{6}\.[\w-]{27,38}(?![\w.-])"
    r"|mfa\.[\w-]{84}|discord(?:app)?\.com/api/webhooks/[0-9]{17,20}/[\w-]{60,}"
    r"|eyJ[\w-]{10,}\.eyJ[\w-]{10,}(?:\.[\w-]+)?"  # JSON Web Token
    r")"
)
HUGGING_FACE = re.compile(r"(?<!\w)hf_[A-Za-z0-9]{34}(?!\w)")  # seldom with a digit

# A name that says what its value is, then the value. `token(?!i[sz])`: a tokenizer is none. Between the two
# stand the signs of code, of JSON (escaped or not), of XML and of a default that a call takes.
ASSIGNMENT = re.compile(
    r"(?:secret|token(?!i[sz])|passw(?:or)?d|passphrase|pwd|api[_-]?key|access[_-]?key|auth[_-]?key"
    r"|account[_-]?key|private[_-]?key|signing[_-]?key|encryption[_-]?key|credential)"
    r"(?P<tail>[\w-]{0,40})"
    r"(?:\\?[\"'])?\s{0,3}(?::=|=>|[:=]|(?<=[\"'])(?:,|\s?value=)|>)\s{0,3}(?:default\s?=\s?)?[rbu]?"
    r"(?P<quote>\\?[\"'`]?)(?P<value>[A-Za-z0-9+/_=.~!%^*#?$-]{16,200})(?P=quote)"
    r"(?![^\s\"'`;,)}\]<&\\])",
    re.IGNORECASE,
)
# What a name ends in whose value is about a secret and none.
ABOUT = re.compile(
    r"(?:hash\w*|digest|algo\w*|type|name|class\w*|path|file|dir|urls?|uri|endpoint|field|column|encoder"
    r"|pattern"
    r"|regexp?|format|policy|length|size|headers?|param\w*|label|limit|expir\w*|count|ttl|version|id|ids"
    r"|provider|factory|manager|service|event|scope|model)$",
    re.IGNORECASE,
)
# Passwords may be short, so only a name for one counts, and of its value more (see `is_password`).
PASSWORD_IN_QUOTES = re.compile(
    r"(?:passw(?:or)?d|passphrase|pwd|(?<![a-z])pass)(?P<tail>\w{0,20})"
    r"(?:\\?[\"'])?\s{0,3}(?::=|=>|[:=]|(?<=[\"']),)\s{0,3}[rbu]?"
    r"(?P<quote>\\?[\"'])(?P<value>[^\s\"'`<>{}\\()\[\]]{8,64})(?P=quote)",
    re.IGNORECASE,
)
PASSWORD_IN_SETTINGS = re.compile(
    r"(?:passw(?:or)?d|passphrase"
    r"|pwd)(?P<tail>\w{0,20})=(?P<value>[^\s\"'`<>{}\\()\[\];&,.]{8,64})(?![^\s\"';&])",
    re.IGNORECASE,
)
URL_PASSWORD = re.compile(
    r"://[^\s:/@\"'<>{}$%()]{0,64}:"
    r"(?P<value>(?:[^\s:/@\"'<>{}$%()]|%[0-9A-Fa-f]{2}){3,128})@(?=[\w\[])"
)
# Between the marks of a key block: base64, headers, and in code the signs that join lines of strings. Code
# that only names the marks has other characters between them, or no line of base64. A header is read in one
# way alone (`?>`, and never over a mark): else the ways through many of them would be tried for hours.
PRIVATE_KEY = re.compile(
    r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"
    r"(?=[^\0]{0,400}?[A-Za-z0-9+/=]{16})"
    r"(?>(?:Proc-Type|DEK-Info|Version|Comment)(?:(?!-----)[^\n\\]){0,100}"
    r"|(?!-----)[A-Za-z0-9+/=\s\\\"'`,.:;#*|>&-]){1,20000}?"
    r"-----END [A-Z0-9 ]{1,40}-----"
)
# Django's, which has punctuation among its letters; `django-insecure-` is what startproject writes.
DJANGO = re.compile(
    r"SECRET_KEY[\"']?\s{0,3}[:=,]\s{0,3}(?:default\s?=\s?)?[rbu]?(?P<quote>[\"']?)"
    r"(?P<value>[A-Za-z0-9!@#$%^&*()_=+-]{40,80})(?P=quote)(?![^\s,;)\]}])"
)
SALTS = re.compile(  # WordPress
    r"define\(\s?'(?:AUTH|SECURE_AUTH|LOGGED_IN|NONCE)_(?:KEY|SALT)',\s{0,20}'(?P<value>[^'\n]{40,80})'"
)
BEARER = re.compile(
    r"\b(?:bearer|authorization[\"']?\]?\s?[:=,]\s?[\"']?(?:token|apikey|api-key"
    r"|key))[ ]{1,2}(?:token=)?[\"']?"
    r"(?P<value>[A-Za-z0-9._~+/-]{20,500}={0,2})(?![\w.~+/=-])",
    re.IGNORECASE,
)
# Name and password in base64: of an HTTP header, of Docker's and npm's settings.
BASIC = re.compile(
    r"(?:\b[Bb]asic[ ]|\"auth\"\s?:\s?\"|_auth\s?=\s?\"?)(?P<value>[A-Za-z0-9+/]{8,200}={0,2})(?![\w+/=])"
)
NPM_RC = re.compile(r":_(?:authToken|password)\s?=\s?\"?(?P<value>[A-Za-z0-9+/=_.-]{8,200})")
LARAVEL = re.compile(r"APP_KEY=(?P<value>base64:[A-Za-z0-9+/]{43}=)")
HEROKU = re.compile(
    r"HEROKU_(?:API_KEY|OAUTH_TOKEN)[\"']?\s{0,3}[:=]\s{0,3}[\"']?"
    r"(?P<value>[0-9a-fA-F]{8}-[0-9a-fA-F-]{27})"
)
NET_RC = re.compile(
    r"\b(?:machine\s+\S{1,100}|default)\s+login\s+\S{1,100}\s+password\s+(?P<value>[^\s$<>{}]{4,128})"
)
PG_PASS = re.compile(
    r"^[\w.*-]{1,100}:(?:[0-9]{4,5}|\*):[\w*-]{1,64}:[\w*-]{1,64}:(?P<value>[^\s:<>\0]{4,100})$",
    re.MULTILINE,
)
# `curl -u name:password`, `mysql -ppassword`; only where a program that takes it stands
# before it on the line.
USER_PASSWORD = re.compile(
    r"(?<![\w-])(?:-u|--user)[ =]?(?P<quote>[\"']?)(?P<user>[\w.@+-]{1,64}):"
    r"(?P<value>[^\s\"'$<>{}]{3,128})(?P=quote)"
)
CLIENT = re.compile(r"\b(?:curl|http|https|httpie|wget)\b")
P_PASSWORD = re.compile(
    r"(?:(?<=\s-p)|(?<=\bsshpass -p ))(?P<quote>['\"]?)"
    r"(?!ort\b|ager\b|lugin|rotocol|ath\b|assword)(?P<value>[^\s\"'$<>{}-][^\s\"'$<>{}]{3,64})(?P=quote)"
)
MYSQL = re.compile(r"\b(?:mysql|mysqldump|mysqladmin|mariadb|sshpass)\b")
# Says that a password goes here, or is the one that everybody starts with.
PLACEHOLDER = re.compile(
    r"(?:x+|\*+|\.+|your\w*|my|the|api|user|some|an?|db|new|old|secret|super|root|admin|test)?[-_]?"
    r"(?:pass(?:word|wd|phrase|code)?|pwd|pw|secret|token|x-oauth-basic|key|api_?token|here|example"
    r"|change_?me"
    r"|foobar|guest|hidden|redacted|admin|root|test|postgres|postgresql|mysql|mongo|redis|rabbitmq)?"
    r"[-_]?(?:here|[0-9]{0,4}|x+)[!*.\])]*",
    re.IGNORECASE,
)
# Written for readers: no key is drawn like this.
WORDS_OF_EXAMPLES = re.compile(
    r"example|sample|dummy|placeholder|changeme|change-me|redacted|insert[-_]|replace[-_]"
    r"|your[-_]?\w{0,12}[-_]?(?:key|token|secret|here)",
    re.IGNORECASE,
)
ROWS = re.compile(  # of one character, of a keyboard or of the alphabet
    r"[x*]{5}|0{8}|1{8}|1234567890|0123456789|abcdefghij|0a1b2c3d|deadbeef|qwertyuiop",
    re.IGNORECASE,
)
WEB_TOKEN_EXAMPLE = ".eyJzdWIiOiIxMjM0NTY3ODkwIi"  # subject 1234567890: the one that jwt.io shows
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
HASH = re.compile(
    r"sha\d|sha[-_]|md5|hash|checksum|digest|integrity|etag|commit|revision|fingerprint|blake",
    re.IGNORECASE,
)
# Hexadecimal digits of MD5, SHA-1, Tiger, SHA-224, SHA-256, SHA-384 and SHA-512.
HASH_CHARS = (32, 40, 48, 56, 64, 96, 128)
# Entropy in bits a character from which a value counts as random; detect-secrets has 3.0 for hexadecimal.
MIN_HEX_BITS = 3.0
MIN_BITS = 3.5
SIGNS = "!@#$%^&*?~+"  # of passwords; hyphens, dots and underscores are of names
# Letters that are also written as digits, to read P@ssw0rd1 as the placeholder that it is.
AS_LETTERS = str.maketrans("013457$@", "oieastsa")
# Names of algorithms and encodings have a digit between letters as well.
ALGORITHM = re.compile(
    r"(?:(?<![A-Za-z])|(?<=[a-z])(?=[A-Z]))"
    r"(?i:base|sha|md|utf|oauth|http|aes|des|rc|x|int|uint|float|pbkdf|win|iso|rsa|ed|v)-?[0-9]+"
)
# Words of a name such as OAuth2PasswordCredentials2: with a vowel, and never four consonants in a row.
CAPITALISED = re.compile(r"[A-Z](?=[a-z]{0,2}[aeiou])(?:(?![b-df-hj-np-tv-xz]{4})[a-z]){3,}")


def is_token(match: re.Match) -> bool:
    """Whether a token of a published form is somebody's, not one that a manual shows."""
    return not is_example(match[0]) and WEB_TOKEN_EXAMPLE not in match[0]


def is_example(value: str) -> bool:
    """Whether a manual made it up."""
    # Of several parts the longest is the drawn one: numbers of teams and bots are given out in a row.
    drawn = max(re.split(r"[:.-]", value), key=len)
    few = len(drawn) >= 16 and len(set(drawn)) <= 5
    return bool(few or WORDS_OF_EXAMPLES.search(value) or ROWS.search(drawn))


def looks_random(value: str) -> bool:
    """Whether it is no word, name, path or UUID, but drawn at random: digits in two places among the
    letters of one part, or among several signs.
    """
    parts = re.split(r"[_.\-/]", value)
    mixed = any(len(part) >= 8 and re.search("[0-9][A-Za-z]+[0-9]", part) for part in parts)
    signs = len(set(value) & set(SIGNS))
    mixed = mixed or signs >= 2 and len(re.findall("[0-9]", value)) >= 2
    return (
        mixed
        and sum(map(len, CAPITALISED.findall(value))) < 0.7 * len(value)
        and not UUID.fullmatch(value)
        and not is_example(value)
        and "${" not in value
        and bits_per_char(value) >= least_bits(value)
    )


def is_opaque(value: str) -> bool:
    """Whether a value that a header calls a token has letters and digits in turn, as no word, name
    or path.
    """
    return (
        len(re.findall(r"[0-9]+", value)) >= 2
        and re.search("[A-Za-z]", value) is not None
        and not is_example(value)
        and bits_per_char(value) >= least_bits(value)
    )


def is_password(match: re.Match) -> bool:
    """Whether a short value of a name for a password is one: of three kinds of characters, with a digit
    inside, and no name of an algorithm.
    """
    value, in_quotes = match["value"], "quote" in match.re.groupindex
    kinds = [
        any(char.islower() for char in value),
        any(char.isupper() for char in value),
        any(char.isdigit() for char in value),
        any(char in SIGNS for char in value),
    ]
    # Without quotes a word of letters and digits is the name of something.
    if not kinds[2] or sum(kinds) < 3 or not (in_quotes or kinds[3]):
        return False
    if kinds[3] is False and not re.search("[A-Za-z][0-9]+[A-Za-z]", value):
        return False
    return not (
        ABOUT.search(match["tail"])
        or ALGORITHM.search(value)
        or is_example(value)
        or is_placeholder(value.rstrip("0123456789!").translate(AS_LETTERS))
        or re.search(r"\$[A-Za-z_{]|%[sd(]|://", value)
    )


def is_placeholder(value: str) -> bool:
    """Whether it only says that a password goes here."""
    return PLACEHOLDER.fullmatch(value) is not None


def is_login(value: str) -> bool:
    """Whether it is a name and a password in base64, neither of them made for a manual."""
    try:
        text = base64.b64decode(value, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return False
    name, colon, password = text.partition(":")
    if not (name and colon and password and text.isprintable()):
        return False
    # RFC 7617 logs Aladdin in.
    return not is_placeholder(password) and name not in ("Aladdin", "test")


def least_bits(value: str) -> float:
    """Entropy a character from which a value counts as random."""
    return MIN_HEX_BITS if re.fullmatch(r"[0-9a-fA-F]+", value) else MIN_BITS


def bits_per_char(value: str) -> float:
    """Shannon entropy of the characters."""
    return -sum(n / len(value) * math.log2(n / len(value)) for n in Counter(value).values())


def is_hash(match: re.Match) -> bool:
    """Whether the value has the form of a hash and its line, or its name, calls it one."""
    value = match["value"]
    name = match[0][: match.start("value") - match.start()]
    return (
        len(value) in HASH_CHARS
        and re.fullmatch(r"[0-9a-fA-F]+", value) is not None
        and HASH.search(line_before(match, 100) + name) is not None
    )
