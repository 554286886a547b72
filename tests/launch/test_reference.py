"""The reference of components and fields is what the classes say."""

import json

import pytest

from launch.__main__ import main
from launch.job.load import load
from launch.job.reference import components, entries
from trainer.run import Run


def test_every_component_of_a_run_and_of_a_data_phase_is_there():
    known = components()
    names = (
        "Run",
        "Prepare",
        "Llama",
        "Muon",
        "AdamW",
        "HeldOut",
        "GopherQuality",
        "Checkpoints",
        "Guard",
    )
    assert [name for name in names if name not in known] == []


def test_no_field_of_any_component_fails_and_those_of_a_run_say_what_they_are():
    assert all(entries(component) for component in components().values() if component.model_fields)
    of_run = {entry.name: entry for entry in entries(Run)}
    assert of_run["steps"].type == "int > 0" and of_run["steps"].default is None
    assert "Llama" in of_run["architecture"].type.split(" | ")
    assert of_run["micro_batches"].default == "1"
    assert of_run["batch_ramp"].text.startswith("(rows, steps) of the first steps")
    assert all(entry.text for entry in of_run.values() if entry.name != "steps")


def test_a_field_is_found_by_its_name_or_path(capsys):
    assert main(["explain", "pretrain.optimizer.peak_lr", "--json"]) == 0
    (field,) = json.loads(capsys.readouterr().out)
    assert field["component"] == "Optimizer" and field["type"].startswith("float")
    assert main(["explain", "Watch"]) == 0
    assert "Steps between histograms of gradient and parameters." in capsys.readouterr().out
    assert main(["explain", "Llamma"]) == 2
    assert "nearest: Llama" in capsys.readouterr().err


def test_a_preset_stands_for_published_sizes_and_fields_beside_it_change_them():
    setting = "pretrain.architecture={preset: llama2_7b, layers: 2, vocab_size: 2048}"
    tied = [f"{phase}.start_from=null" for phase in ("sft", "dpo")]
    run = load("tiny", [setting, *tied]).phases["pretrain"]
    assert (run.architecture.width, run.architecture.layers) == (4096, 2)
    with pytest.raises(ValueError, match="preset=llama2_7c: no such preset; nearest: llama2_7b"):
        load("tiny", ["pretrain.architecture={preset: llama2_7c}"])
