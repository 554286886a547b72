"""A job is loaded, overridden and checked once; everything wrong with it is told at once, in our words."""

import pytest

from data_pipeline.component import imported_by_user
from data_pipeline.prepare import Prepare
from launch.job.load import dump, load, validate
from launch.job.phase import Executable, Phase
from launch.job.problems import Problems
from launch.job.yaml import parse_yaml, to_yaml
from tests.launch import toy
from tests.launch.command import TOYS, meshwright
from trainer.run import Run


@pytest.fixture(autouse=True)
def toys_are_known():
    """As after --import tests.launch.toy."""
    imported_by_user.append("tests.launch.toy")
    yield
    imported_by_user.remove("tests.launch.toy")


@pytest.fixture
def config(tmp_path):
    """A .yaml file of the toy job."""
    path = tmp_path / "mine.yaml"
    path.write_text(to_yaml(dump(toy.job())))
    return str(path)


def problems_of(config, *settings):
    with pytest.raises(Problems) as told:
        load(config, settings)
    return told.value.problems


def test_our_phases_answer_what_launch_asks_of_every_phase():
    assert issubclass(Run, Phase) and issubclass(Prepare, Executable)


def test_the_tree_of_a_job_is_read_back_equal():
    assert validate(parse_yaml(to_yaml(dump(toy.job())), "test"), "test") == toy.job()


def test_a_yaml_file_and_a_python_file_are_the_same_job(config, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from tests.launch.toy import job\n\n\ndef mine():\n    return job()\n"
    )
    from_yaml, from_python = load(config), load(str(tmp_path / "mine.py"))
    assert from_yaml.phases == from_python.phases and from_yaml.name == from_python.name == "mine"
    assert from_yaml.config == config


@pytest.mark.parametrize(
    "settings", [(), ("--set", "data.steps=7", "--set", "data.optimizer={type: Lion, rate: 1e-3}")]
)
def test_show_prints_what_runs_the_same(config, tmp_path, settings):
    shown = meshwright("show", config, *TOYS, *settings, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    (tmp_path / "again.yaml").write_text(shown.stdout)
    assert load(str(tmp_path / "again.yaml")).phases == load(config, settings[1::2]).phases
    assert shown.stderr == ""


def test_overrides_are_applied_in_order_and_typed(config):
    phases = load(
        config,
        [
            "data.steps=7",
            "data.steps=8",
            "data.optimizer.peak_lr=1e-4",
            "pretrain.parts.1.weight=2",
        ],
    ).phases
    assert (
        phases["data"].steps,
        phases["data"].optimizer.peak_lr,
        phases["pretrain"].parts[1].weight,
    ) == (
        8,
        1e-4,
        2.0,
    )


def test_a_component_is_replaced_whole(config):
    assert load(config, ["pretrain.optimizer={type: Lion, rate: 0.1}"]).phases[
        "pretrain"
    ].optimizer == toy.Lion(rate=0.1)


def test_an_override_reaches_a_default_that_the_file_leaves_out(tmp_path):
    (tmp_path / "short.yaml").write_text("data: {type: Count, steps: 3}\n")
    assert load(str(tmp_path / "short.yaml"), ["data.optimizer.peak_lr=0.5"]).phases[
        "data"
    ].optimizer == toy.Adam(peak_lr=0.5)


def test_an_override_gives_what_the_file_lacks(tmp_path):
    (tmp_path / "short.yaml").write_text("data: {type: Count}\n")
    assert load(str(tmp_path / "short.yaml"), ["data.steps=3"]).phases["data"].steps == 3


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("data.stepz=3", "data.stepz=3: no such field; nearest: data.steps"),
        (
            "pretrain.optimizer.peak_rl=1e-3",
            "pretrain.optimizer.peak_rl=0.001: no such field; nearest: pretrain.optimizer.peak_lr",
        ),
        (
            "pretrain.parts.0.weigth=2",
            "pretrain.parts.0.weigth=2: no such field; nearest: pretrain.parts.0.weight",
        ),
        ("dta.steps=3", "dta: no such phase; nearest: data"),
        (
            "data.steps=many",
            "data.steps=many: must be a whole number; write it like 100, without point or exponent",
        ),
        (
            "data.steps=1e3",
            "data.steps=1000.0: must be a whole number; write it like 100, without point or exponent",
        ),
        ("data.steps=0", "data.steps=0: must be greater than 0; raise it"),
        ("data.mode=fst", "data.mode=fst: must be 'fast' or 'slow'; choose one of them"),
        ("data.weights.web=x", "data.weights.web=x: must be a number; write it like 3e-4"),
        ("data.weights.web=yes", "data.weights.web='yes': must be a number; write it like 3e-4"),
        ("data.weights.web='2'", "data.weights.web='2': must be a number; write it without quotes"),
        ("data.steps='3.5'", "data.steps='3.5': must be a whole number; write it like 100"),
        ("data.weights.web='[2]'", "data.weights.web='[2]': must be a number; write it like 3e-4"),
        ("data.start_from=None", "--set data.start_from=None: nothing is written null in YAML"),
        ("data.start_from=1", "data.start_from=1: must be text; put it in quotes"),
        (
            "pretrain.parts.7.weight=2",
            "pretrain.parts.7: '7' must be a number from 0 to 1; or set the whole list pretrain.parts",
        ),
        ("data.steps.x=1", "data.steps.x: data.steps is 5, which has no fields; set that itself"),
        ("data.type=Cuont", "data.type=Cuont: no such phase; nearest: Count"),
        (
            "data.type=Adam",
            "data.type=Adam: is no phase; give it the methods execute, needs_devices, problems and fingerprint",
        ),
        (
            "data.steps",
            "--set 'data.steps': must be PHASE.FIELD=VALUE, e.g. --set pretrain.steps=100",
        ),
        (
            "data.optimizer.warmup_steps=9",
            "data.optimizer.warmup_steps=9 exceeds steps=5; lower it or raise steps",
        ),
        (
            "pretrain.start_from=sft",
            "pretrain.start_from=sft is no phase of this job; there are data, pretrain",
        ),
        (
            "data.optimizer={peak_lr: 1}",
            "data.optimizer={peak_lr: 1}: must be a mapping with `type:",
        ),
        ("data.steps=[1", "--set data.steps line 1, column 3: not YAML"),
    ],
)
def test_a_wrong_value_names_field_value_rule_and_remedy(config, setting, line):
    (problem,) = problems_of(config, setting)
    assert problem.startswith(line)


def test_an_unknown_component_names_its_nearest(config):
    (problem,) = problems_of(config, "data.optimizer.type=Adma")
    assert problem.startswith("data.optimizer") and "nearest: Adam" in problem


def test_all_problems_are_told_together(config):
    found = problems_of(
        config,
        "data.stepz=3",
        "data.mode=fst",
        "pretrain.optimizer.peak_lr=-1",
        "dta.steps=1",
        "pretrain.steps=null",
    )
    assert len(found) == 5 and len({line.split("=")[0] for line in found}) == 5


def test_the_command_prints_one_line_a_problem_and_ends_with_2(config, tmp_path):
    done = meshwright(
        "run", config, *TOYS, "--set", "data.stepz=3", "--set", "data.mode=fst", cwd=tmp_path
    )
    assert done.returncode == 2 and done.stdout == ""
    assert (
        len(done.stderr.splitlines()) == 3
        and done.stderr.startswith("meshwright: error: ")
        and "Traceback" not in done.stderr
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "data: {type: Count, steps: 3, step: 4}",
            "data.step=4: no such field; nearest: data.steps",
        ),
        (
            "data: {type: Count}",
            "data.steps: must be given; add it to the config or use --set data.steps=VALUE",
        ),
        ("data: {steps: 3}", "data.type: must be given"),
        ("Data: {type: Count, steps: 3}", "Data: a phase's name is its folder's"),
        ("[1, 2]", "must map phase names to phases"),
        ("", "must map phase names to phases"),
    ],
)
def test_a_wrong_file_is_told_like_a_wrong_override(tmp_path, text, line):
    (tmp_path / "wrong.yaml").write_text(text)
    (problem,) = problems_of(str(tmp_path / "wrong.yaml"))
    assert problem.startswith(line)


def test_unknown_configs_name_what_is_near(tmp_path, monkeypatch):
    monkeypatch.setattr("launch.job.load.config_names", lambda: ["tiny", "llama2"])
    with pytest.raises(ValueError, match="config tny: no such launch config; nearest: tiny"):
        load("tny")
    (tmp_path / "mine.yaml").write_text("")
    with pytest.raises(ValueError, match="no such file; nearest: .*mine.yaml"):
        load(str(tmp_path / "mime.yaml"))


def test_a_python_config_that_is_wrong_is_told_in_a_sentence(tmp_path):
    (tmp_path / "a.py").write_text("def b(:\n")
    with pytest.raises(ValueError, match="line 1: not Python"):
        load(str(tmp_path / "a.py"))
    (tmp_path / "a.py").write_text("def b(): pass\n")
    with pytest.raises(ValueError, match=r"must define a function a\(\)"):
        load(str(tmp_path / "a.py"))
    (tmp_path / "a.py").write_text(
        "from tests.launch.toy import Count\ndef a(): return {'data': Count(steps=0, stepz=1)}\n"
    )
    with pytest.raises(Problems) as told:
        load(str(tmp_path / "a.py"))
    assert told.value.problems[0] == "Count.steps=0: must be greater than 0; raise it"
    assert told.value.problems[1].startswith("Count.stepz=1: no such field")


def test_a_module_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="--import nowhere.toys: there is no module nowhere"):
        load("tiny", imports=["nowhere.toys"])


@pytest.mark.parametrize(
    ("module", "text", "told"),
    [
        ("./mine_a.py", "", "must be the name of a module, not a path; write --import mine_a"),
        ("mine_b", "import nowhere_at_all", "fails with ModuleNotFoundError in .*mine_b.py line 1"),
        ("mine_c", "x = 1\nx.y", "fails with AttributeError in .*mine_c.py line 2: 'int'"),
        ("mine_d", "def f(:", "mine_d.py line 1: not Python"),
    ],
)
def test_a_users_module_that_fails_is_a_sentence(tmp_path, monkeypatch, module, text, told):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / f"{module.removeprefix('./').removesuffix('.py')}.py").write_text(text)
    with pytest.raises(ValueError, match=f"--import {module}: .*{told}"):
        load("tiny", imports=[module])


def test_a_config_that_fails_and_one_of_a_model_are_sentences(tmp_path):
    (tmp_path / "mine.py").write_text("def mine():\n    return {}['x']\n")
    with pytest.raises(ValueError, match=r"config .*mine.py fails with KeyError in .* line 2: 'x'"):
        load(str(tmp_path / "mine.py"))
    with pytest.raises(ValueError, match=r"config x/config.json: a JSON file is no launch config"):
        load("x/config.json")


@pytest.mark.parametrize("field", ["data.seed", "pretrain.seed"])
def test_a_seed_has_32_bits(field):
    assert load("tiny", [f"{field}=4294967295"])
    with pytest.raises(Problems, match=f"{field}=4294967296: must be less than 4294967296; lower"):
        load("tiny", [f"{field}=4294967296"])
