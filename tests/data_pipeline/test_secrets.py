"""Secrets: no part of a key stays, and hashes, identifiers and placeholders are no keys."""

import random
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.clean.secrets import KEY, PASSWORD, Secrets
from data_pipeline.documents.document import Document
from tests.data_pipeline import secret_samples

RULE = Secrets(sources=("code",), max_hits=3)
HEX = "0123456789abcdef"
ALL = string.ascii_letters + string.digits
# kind → how many characters of which alphabet follow each prefix; keys are made up here, for scanners of this
# repository to find none
FORMS = {
    "aws": (("AKIA", 16, string.ascii_uppercase + string.digits),),
    "github": (("ghp_", 36, ALL),),
    "github fine-grained": (("github_pat_", 22, ALL), ("_", 59, ALL)),
    "gitlab": (("glpat-", 20, ALL),),
    "slack": (("xoxb-", 12, string.digits), ("-", 13, string.digits), ("-", 24, ALL)),
    "slack hook": (("hooks.slack.com/services/T", 8, ALL), ("/B", 8, ALL), ("/", 24, ALL)),
    "stripe": (("sk_live_", 24, ALL),),
    "google": (("AIza", 35, ALL),),
    "openai": (("sk-", 48, ALL),),
    "openai project": (("sk-proj-", 60, ALL),),
    "anthropic": (("sk-ant-api03-", 90, ALL),),
    "hugging face": (("hf_", 34, string.ascii_letters),),
    "npm": (("npm_", 36, ALL),),
    "python index": (("pypi" + "-AgE", 90, ALL),),
    "sendgrid": (("SG.", 22, ALL), (".", 43, ALL)),
    "mailgun": (("key-", 32, HEX),),
    "digitalocean": (("dop_v1_", 64, HEX),),
    "web token": (("eyJ", 33, ALL), (".eyJ", 40, ALL), (".", 43, ALL)),
}
PLACES = (
    'x = "{}"\n',
    "{}",
    "Authorization: Bearer {}\r\n",
    "https://host/?key={}&x=1",
    "({}), (русский)",
    "A={};",
)


def cleaned(text: str) -> tuple[str, float, float]:
    (document,), signals = RULE.annotate([Document("id", text, "code", "a.py", "group")])
    assert (
        signals["secret_hits"][0]
        == signals["secret_key_spans"][0] + signals["secret_password_spans"][0]
    )
    return document.text, signals["secret_key_spans"][0], signals["secret_password_spans"][0]


def made_up(seed: int, *parts: tuple[str, int, str]) -> str:
    """A key; it holds digits in two places, as all but a few random ones do."""
    rng = random.Random(seed)
    return "".join(prefix + "".join(rng.choices(alphabet, k=n)) for prefix, n, alphabet in parts)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("place", PLACES)
def test_a_key_of_a_known_form_becomes_a_placeholder_wherever_it_stands(form, place):
    for seed in range(5):
        key = made_up(seed, *FORMS[form])
        assert cleaned(place.replace("{}", key)) == (place.replace("{}", KEY), 1, 0)


@pytest.mark.parametrize(
    "place",
    (
        'api_key = "{}"',
        "aws_secret_access_key={}",
        "SECRET_KEY: '{}'",
        '"authToken": "{}",',
        "export DB_PASSWORD={}\n",
        "client_secret => '{}'",
    ),
)
@settings(max_examples=20)
@given(seed=st.integers(0, 1 << 30), n=st.sampled_from((32, 40)))
def test_a_random_value_of_a_name_that_says_so_becomes_a_placeholder(place, seed, n):
    value = made_up(seed, ("k1", n - 4, ALL), ("4z", 0, ALL))
    assert cleaned(place.replace("{}", value)) == (place.replace("{}", KEY), 1, 0)


def test_private_key_blocks_and_passwords_in_urls_go():
    block = (
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA7\nabc=\n-----END RSA PRIVATE KEY-----"
    )
    assert cleaned(f"a\n{block}\nb\n") == (f"a\n{KEY}\nb\n", 1, 0)
    headed = block.replace("KEY-----\nMII", "KEY-----\nVersion: GnuPG v2 (a) Comment: @\n\nMII", 1)
    for one in (headed, headed.replace("\n", " ")):
        assert cleaned(f"a\n{one}\nb\n") == (f"a\n{KEY}\nb\n", 1, 0)
    assert cleaned("postgres://bob:hunter2@db.corp.com/x") == (
        f"postgres://bob:{PASSWORD}@db.corp.com/x",
        0,
        1,
    )


HARMLESS = (
    "commit da39a3ee5e6b4b0d3255bfef95601890afd80709",
    f'sha256_token = "{made_up(1, ("", 64, HEX))}"  # checksum',
    'token = "123e4567-e89b-12d3-a456-426614174000"',
    'token = "user_access_token_2fa_required"',
    "token=get_token_from_server_v2(x)",
    'secret = os.environ["SECRET_KEY_BASE_2048"]',
    "password: 'correct horse battery staple'",
    "credentials: OAuth2Credentials):",
    "https://user:{password}@host/ and https://host:8080/a@b",
    "integrity sha512-" + made_up(2, ("", 86, ALL)),
    "class sk-estimator-doc-link-wrapper-2024 { }  hf_hub_download_of_a_file_with_a_long_name",
    "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----",
    "import data_pipeline.readers2.some_very_long_module_name_2024 as token",
    "Обычный русский текст без всяких ключей, 2024 год.",
)


@pytest.mark.parametrize("text", HARMLESS)
def test_hashes_names_and_placeholders_are_no_keys(text):
    assert cleaned(text) == (text, 0, 0)


@settings(max_examples=80)
@given(
    st.lists(
        st.one_of(
            st.text('akey_=:/@."-\n\0 9Z', max_size=60),
            st.integers(0, 99).map(lambda i: made_up(i, *FORMS["github"])),
        ),
        max_size=5,
    )
)
def test_a_document_in_a_batch_equals_the_document_alone_and_a_second_pass_finds_nothing(texts):
    documents, _ = RULE.annotate([Document("id", text, "code", "a.py", "group") for text in texts])
    assert [document.text for document in documents] == [cleaned(text)[0] for text in texts]
    assert RULE.annotate(documents)[0] == documents


def test_too_many_are_a_limit():
    (limit,) = RULE.limits()
    assert (limit.signal, limit.most) == ("secret_hits", 3) and Secrets(
        sources=("code",)
    ).limits() == ()


@pytest.mark.parametrize(
    ("text", "placeholder"),
    [
        ("SECRET_KEY = '{}'\n", KEY),
        ("Authorization: Bearer {}\n", KEY),
        ("bot = '{}'\n", KEY),
        ("curl -u alice:{} https://x.y/\n", PASSWORD),
        ("curl --user 'bob:{}' http://a\n", PASSWORD),
    ],
)
def test_secrets_known_by_the_word_before_them_go(text, placeholder):
    secrets = {
        "SECRET_KEY = '{}'\n": ("django-insecure-4x$k2m!q9&(w)z#1u7t5_e0b@=+r8y^jc3d6hf*np",),
        "Authorization: Bearer {}\n": ("9fKx2.mQ7_zR4tV8wB1nY6cJ3", "aB3dE6gH9kL2mN5pQ8sT1vW4"),
        "bot = '{}'\n": ("123456789" + ":AA" + made_up(1, ("", 33, ALL)),),
    }.get(text, ("Tr0ub4dor", "hunter22"))
    for secret in secrets:
        assert cleaned(text.replace("{}", secret))[0] == text.replace("{}", placeholder)


@pytest.mark.parametrize(
    "text",
    [
        "curl -u user:password https://x.y/\n",
        "docker run -u 1000:1000 image\n",
        "curl -u $USER:$PASSWORD https://x.y/\n",
        "Authorization: Bearer YOUR_ACCESS_TOKEN_HERE\n",
        "SECRET_KEY = 'change-me-to-something-else-before-you-deploy-it'\n",
        "if '-----BEGIN PRIVATE KEY-----' in text:\n    body = text.split(mark)[1]\n"
        "END = '-----END PRIVATE KEY-----'\n",
        # Neither end nor other signs, with many words that may each begin a header: once 2^n steps.
        "-----BEGIN PGP PRIVATE KEY BLOCK-----\nlQdGBGQxAAABEACAA\n" + "Version: 1\n" * 100 + "~\n",
    ],
)
def test_placeholders_and_code_about_keys_stay(text):
    assert cleaned(text) == (text, 0, 0)


@pytest.mark.parametrize(("place", "secret"), secret_samples.SECRETS)
def test_a_secret_goes_as_it_stands_in_code_settings_and_commands(place, secret):
    after = cleaned(place.replace("{}", secret) + "\n")[0]
    assert after in [place.replace("{}", name) + "\n" for name in (KEY, PASSWORD)]


@pytest.mark.parametrize("text", secret_samples.HARMLESS)
def test_what_looks_like_a_secret_and_is_none_stays(text):
    assert cleaned(text + "\n") == (text + "\n", 0, 0)
