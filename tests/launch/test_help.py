"""Help is instant: it imports neither jax nor pydantic nor any component."""

import subprocess
import sys
import tomllib

import pytest

from launch.__main__ import VERBS, main
from tests.launch.command import ROOT, environment, meshwright

PROBE = """
import sys
from launch.__main__ import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    code = end.code
rooms = [m for m in sys.modules if m.split(".")[0] in ("trainer", "model", "data_pipeline", "inference")]
print("HEAVY", [m for m in ("jax", "numpy", "pydantic", "ruamel", "rich", "matplotlib", "tensorboard") if m in sys.modules] + rooms)
sys.exit(code)
"""


@pytest.mark.parametrize("argv", [["--help"], *([verb, "--help"] for verb in VERBS)], ids=" ".join)
def test_help_imports_nothing_heavy(argv, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *argv],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "HEAVY []" in done.stdout
    assert "usage: meshwright" in done.stdout


def test_every_verb_has_a_line_in_the_help(tmp_path):
    text = " ".join(meshwright("--help", cwd=tmp_path).stdout.split())
    assert all(
        " ".join(line.split()) in text.replace("- ", "-") or verb in text
        for verb, line in VERBS.items()
    )


def test_the_bare_command_shows_what_there_is(tmp_path):
    done = meshwright(cwd=tmp_path)
    assert done.returncode == 2 and "usage: meshwright" in done.stderr
    assert all(f"  {verb}" in done.stderr for verb in VERBS)


def test_the_configs_are_listed(tmp_path):
    text = " ".join(meshwright("run", "--help", cwd=tmp_path).stdout.split())
    assert all(name in text for name in ("tiny", "shakespeare", "llama2_70b"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("rnu", "rnu: no such verb; nearest: run"),
        ("tiny", "tiny is a config, and no verb; write `meshwright run tiny`"),
        (
            "mine.yaml --dir x",
            "mine.yaml is a config, and no verb; write `meshwright run mine.yaml`",
        ),
        ("xyzzy", "xyzzy: no such verb; choose one of run, explain, "),
        # An abbreviation is refused too.
        ("show tiny --se a.b=1", "--se: no such option, nearest: --set; `meshwright show --help`"),
        ("bench trian", "error: trian: no such choice; nearest: train\n"),
        ("run tiny other", "other: one argument too many"),
        ("data at runs/x --step 1 --txet", "nearest: --text; `meshwright data at --help` lists"),
        ("bench loop --round 3", "nearest: --rounds; `meshwright bench loop --help` lists"),
    ],
)
def test_a_slip_of_the_command_line_names_what_is_near(words, said, capsys):
    with pytest.raises(SystemExit) as end:
        main(words.split())
    error = capsys.readouterr().err
    assert end.value.code == 2 and said in error and len(error.splitlines()) == 1


def test_the_version_is_that_of_the_package(tmp_path):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert meshwright("--version", cwd=tmp_path).stdout == f"meshwright {version}\n"


def test_a_wrong_usage_is_one_sentence(tmp_path):
    done = meshwright("run", "tiny", "--dir", "gs://b/x", cwd=tmp_path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
