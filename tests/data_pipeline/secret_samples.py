"""Secrets as they stand in code, settings and commands, and what looks like them.

Values are made up here, part by part, for scanners of this repository to find none.
"""

import base64
import random
import string

HEX = "0123456789abcdef"
ALL = string.ascii_letters + string.digits
LOWER = string.ascii_lowercase + string.digits
URL = ALL + "-_"
DJANGO = "abcdefghijklmnopqrstuvwxyz0123456789!@#$%^&*(-_=+)"


def drawn(seed: int, n: int, alphabet: str) -> str:
    """A value with digits in two places, as all but a few random ones have."""
    rng = random.Random(seed)
    value = "".join(rng.choices(alphabet, k=n - 4))
    return f"{value[: n // 2]}7q3{value[n // 2 :]}5"


def login(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


# What stands around the secret, {} in its place; the secret.
SECRETS = (
    ("SECRET_KEY = '{}'", "django-" + "insecure-" + drawn(1, 50, DJANGO)),
    ('SECRET_KEY = os.environ.get("SECRET_KEY", "{}")', drawn(2, 50, DJANGO)),
    ("SECRET_KEY={}", drawn(3, 50, DJANGO.replace("$", "").replace("(", "").replace(")", ""))),
    ("define('AUTH_KEY',         '{}');", drawn(4, 64, DJANGO + " |;:.,<>")),
    ("APP_KEY={}", "base64:" + drawn(5, 43, ALL) + "="),
    ("Authorization: Bearer {}", drawn(6, 40, ALL)),
    ('headers = {"Authorization": "Bearer {}"}', drawn(7, 43, URL)),
    ('headers["Authorization"] = "Token {}"', drawn(8, 40, HEX)),
    ("curl -H 'Authorization: token {}' https://api.github.com", drawn(9, 40, HEX)),
    ("curl -u alice:{} https://api.acme.io/v1", "Wint3r" + "Sturm!"),
    ("curl --user 'deploy:{}' https://ci.acme.io", "kX9" + "vQ2wZ"),
    ("Authorization: Basic {}", login("alice:" + "Wint3rSturm")),
    ('"auth": "{}"', login("robot:" + drawn(10, 20, ALL))),
    ("machine api.acme.io login bob password {}", "s0mmer" + "Regen"),
    ("//packages.acme.io/:_authToken={}", "npm" + "_" + drawn(11, 36, ALL)),
    ("//npm.acme.io/:_authToken={}", "0f3c2b1a-" + "77aa-4c1d-9e8f-5b6c7d8e9f01"),
    ("password = {}", "pypi" + "-AgE" + drawn(12, 100, URL)),
    ('bot = Bot("{}")', "5012345678" + ":AA" + drawn(13, 33, URL)),
    ("https://api.telegram.org/bot{}/getMe", "5112345678" + ":AA" + drawn(14, 33, URL)),
    ("client.run('{}')", "M" + drawn(15, 25, ALL) + ".Gq3xYz." + drawn(16, 38, URL)),
    ("SLACK={}", "xox" + "b-" + "248109876543-2481098765432-" + drawn(17, 24, ALL)),
    (
        "{}",
        "https://hooks.slack.com".removeprefix("https://") + "/services/T0" + drawn(18, 34, ALL),
    ),
    (
        "url = 'https://{}'",
        "discord.com/api" + "/webhooks/1048576009988776655/" + drawn(19, 68, URL),
    ),
    (
        "aws_access_key_id = {}",
        "AKI" + "A" + drawn(20, 16, string.ascii_uppercase + "234567").upper(),
    ),
    ("aws_secret_access_key = {}", drawn(21, 40, ALL + "/+")),
    ('"api_key": "{}"', "AI" + "za" + drawn(22, 35, URL)),
    ("GITHUB_TOKEN={}", "gh" + "p_" + drawn(23, 36, ALL)),
    ("git clone https://x-access-token:{}@github.com/a/b", "gh" + "s_" + drawn(24, 36, ALL)),
    ("CI_TOKEN: {}", "gl" + "pat-" + drawn(25, 20, URL)),
    ("stripe.api_key = '{}'", "sk" + "_live_" + drawn(26, 24, ALL)),
    (
        "token = '{}'",
        "ey"
        + "J"
        + drawn(27, 33, ALL)
        + ".ey"
        + "J"
        + drawn(28, 60, ALL)
        + "."
        + drawn(29, 43, URL),
    ),
    ("openai.api_key = '{}'", "sk-" + "proj-" + drawn(30, 60, ALL)),
    ("DATABASE_URL=postgres://app:{}@db.acme.io:5432/app", "s3cr3t" + "Pa55"),
    ("engine = create_engine('mysql+pymysql://root:{}@10.1.2.3/db')", "p%40ss" + "w0rT"),
    ("redis://:{}@cache.acme.io:6379/0", drawn(31, 24, ALL)),
    ("mongodb+srv://admin:{}@cluster0.mongodb.net", "Q7" + "rtz!x"),
    ('DB_PASSWORD = "{}"', "Wint3r" + "#Sturm"),
    ("password: '{}'", "tR0pf" + "en!9"),
    ('config.set("password", "{}")', "Sch4tten" + "Wald"),
    ("PGPASSWORD={} psql -h db", "k9#" + "Lm2!vR"),
    ("mysql -u root -p{} shop", "Nebel" + "22x"),
    ("jdbc:sqlserver://db;user=sa;password={};", "G7!k" + "Lo0p#"),
    ("AccountKey={};EndpointSuffix=core.windows.net", drawn(32, 86, ALL + "+/") + "=="),
    ("HEROKU_API_KEY={}", "9d3e4f5a-" + "1b2c-4d5e-8f90-a1b2c3d4e5f6"),
    ("<add key='ApiKey' value='{}' />", drawn(33, 32, HEX)),
    ("https://api.acme.io/v1?api_key={}&x=1", drawn(34, 32, ALL)),
    ('body = "{\\"client_secret\\": \\"{}\\"}"', drawn(35, 40, ALL)),
    ("auth_token = '{}'", drawn(36, 32, HEX)),
    ("VAULT={}", "hv" + "s." + drawn(37, 90, URL)),
    ("key: {}", "gs" + "k_" + drawn(38, 52, ALL)),
)
UUID = "123e4567-e89b-12d3-a456-426614174000"
# Hashes, numbers, names, examples.
HARMLESS = (
    "commit " + drawn(1, 40, HEX),
    "sha256 = '" + drawn(2, 64, HEX) + "'",
    '"integrity": "sha512-' + drawn(3, 86, ALL + "+/") + '=="',
    "<script integrity='sha384-" + drawn(4, 64, ALL + "+/") + "' crossorigin>",
    "    --hash=sha256:" + drawn(5, 64, HEX) + " \\",
    "github.com/pkg/errors v0.9.1 h1:" + drawn(6, 43, ALL + "+/") + "=",
    'checksum = "' + drawn(7, 64, HEX) + '"',
    'ETag: "' + drawn(8, 32, HEX) + '"',
    "md5: " + drawn(9, 32, HEX),
    'resolved "https://packages.acme.io/a/-/a-1.0.0.tgz#' + drawn(10, 40, HEX) + '"',
    f"token = '{UUID}'",
    f"id: {UUID}",
    f"session_secret_name = '{UUID}'",
    "image: nginx@sha256:" + drawn(11, 64, HEX),
    "src='data:image/png;base64," + drawn(12, 200, ALL + "+/") + "=='",
    "url(data:font/woff2;base64," + drawn(13, 120, ALL + "+/") + ")",
    "-----BEGIN CERTIFICATE-----\n" + drawn(14, 64, ALL + "+/") + "\n-----END CERTIFICATE-----",
    "-----BEGIN PUBLIC KEY-----\n" + drawn(15, 64, ALL + "+/") + "\n-----END PUBLIC KEY-----",
    "ssh-rsa AAAAB3NzaC1yc2E" + drawn(16, 120, ALL + "+/") + " bob@host",
    "if '-----BEGIN PRIVATE KEY-----' in text:",
    "1.3.6.1.4.1.311.21.20",
    "oid = '2.16.840.1.101.3.4.2.1'",
    "version = '2024.10.31.post1+g1a2b3c4'",
    "vector = bytes.fromhex('000102030405060708090a0b0c0d0e0f')",
    "key = bytes.fromhex('2b7e151628aed2a6abf7158809cf4f3c')  # FIPS 197",
    "0x6a09e667f3bcc908, 0xbb67ae8584caa73b",
    "aws_access_key_id = AKIA" + "IOSFODNN7EXAMPLE",
    "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCY" + "EXAMPLEKEY",
    "token = 'your-token-here'",
    "API_KEY=your_api_key_here_1234567890",
    "api_key = '<YOUR_API_KEY>'",
    "api_key = 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'",
    "api_key = '0123456789abcdef0123456789abcdef'",
    "GITHUB_TOKEN=ghp_" + "x" * 36,
    "OPENAI_API_KEY=sk-" + "X" * 48,
    "key = 'sk-proj-your-api-key-goes-here-please'",
    "slack = 'xoxb-your-bot-token-goes-here-000'",
    "Authorization: Bearer <token>",
    "Authorization: Bearer ${TOKEN}",
    "Authorization: Bearer YOUR_ACCESS_TOKEN_HERE",
    "Authorization: Bearer my-very-long-access-token",
    "Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
    "Authorization: Basic " + login("user:password"),
    "Basic authentication with base64Encoded credentials",
    "curl -u user:password https://x.y/",
    "curl -u $USER:$PASS https://x.y/",
    "curl -u username:<password> https://x.y/",
    "docker run -u 1000:1000 image",
    "chown -R www:data /srv",
    "postgres://user:password@localhost/db",
    "postgres://postgres:postgres@localhost:5432/postgres",
    "amqp://guest:guest@localhost:5672",
    "mysql://root:root@127.0.0.1/test",
    "https://user:{password}@host/ and https://host:8080/a@b",
    "f'postgres://{user}:{password}@{host}/{db}'",
    "'postgres://%s:%s@%s/%s' % (u, p, h, d)",
    "password = 'password'",
    "password = 'changeme123!'",
    "password='P@ssw0rd1'",
    "password = 'correct horse battery staple'",
    'password: "Passwort vergessen? Hier klicken."',
    "password = getpass('Password: ')",
    "password = self.cleaned_data['password2']",
    "password=options.Password1Field",
    "passwordEncoder = 'Pbkdf2WithHmacSHA1'",
    "PASSWORD_HASHER = 'PBKDF2PasswordHasher2024X9'",
    "secret = os.environ['SECRET_KEY_BASE_2048']",
    "token_url = 'https://login.acme.io/oauth2/v2.0/token'",
    "tokenizer = 'meta-llama/Llama-2-7b-chat-hf'",
    "tokenizer_file: bert2base3uncased4wordpiece.json",
    "token_type_ids_2d_v2 = [0, 1]",
    "max_tokens_per_batch_v2 = 8192",
    "secretKeyFactory = 'PBEWithMD5AndDES2Factory3'",
    "credentials: OAuth2PasswordCredentials2):",
    "csrf_token = '{{ csrf_token }}'",
    "api_key = config.get('API_KEY')",
    "password_file: /run/secrets/db_password_2024",
    "SECRET_KEY = 'change-me-to-something-else-before-you-deploy-it'",
    "SECRET_KEY = 'dev'",
    "define('AUTH_KEY', 'put your unique phrase here');",
    "//packages.acme.io/:_authToken=${NPM_TOKEN}",
    "machine host login user password secret",
    "mysql -u root -p shop",
    "mysqldump --port=3306 -u root shop",
    "class sk-estimator-doc-link-wrapper-2024 { }",
    "hf_hub_download_of_a_file_with_a_long_name",
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9"
    + ".eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG9lIn0.x",
    "1234567:this is line one of the file",
    "2024-05-01T12:34:56.789012Z",
    "ISBN 978-3-16-148410-0",
    "key = 'user:1234:session:5678'",
    "cacheKey = 'v2-' + hash",
    "primary_key = Column(Integer)",
    "KEY_LENGTH = 2048",
    "const keyCodes = {enter: 13, esc: 27}",
    "passphrase = None",
    "The password must have 8 characters, e.g. one digit.",
)
