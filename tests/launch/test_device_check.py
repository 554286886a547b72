"""The check of a device: the small form of the whole command, and what each kind of failure becomes."""

import json
import re
import subprocess
import sys
import tomllib
from functools import partial

import jax
import pytest

from launch.bench.device.attention import SMALL_CASES, check_attention
from launch.bench.device.rows import Check, Row, Skip, compared, row_of
from launch.bench.device.speed import RECIPES, estimated_bytes, shape_of_recipe
from launch.bench.device.watch import MARK, NEEDED, check_device
from model.architectures.llama_presets import PRESETS
from model.kernels import plain
from tests.launch.command import ROOT, environment, meshwright

# most of the time would be compiling, and tiny programs need no optimising
QUICK = {"XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"}


def test_the_small_form_passes_here(tmp_path):
    done = meshwright(
        "bench", "device", "--small", "--json", "check.json", cwd=tmp_path, timeout_s=480, **QUICK
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "check.json").read_text())
    status = {row["check"]: row["status"] for row in report["rows"]}
    assert report["passed"] and report["device"]["platform"] == "cpu"
    assert set(status.values()) == {"passed", "measured", "skipped"}
    assert {check for check, said in status.items() if said == "skipped"} == {
        check for check in status if "over 2 devices" in check
    }
    figures = {row["check"]: row["figures"] for row in report["rows"]}
    assert {"mfu", "tokens_per_s", "matmul_tflops"} <= set(figures["train tiny"])
    assert (
        figures["decode, batch 32"]["tokens_per_s"] > 0
        and figures["save and restore"]["save_s"] > 0
    )
    assert "All comparisons passed" in done.stdout


def without_segments(q_BLHA, k_BLKA, v_BLKA, positions_BL, segments_BL, maths):
    return plain.attend(q_BLHA, k_BLKA, v_BLKA, positions_BL, 0 * segments_BL, maths)


def with_a_wider_window(q_BLHA, k_BLKA, v_BLKA, positions_BL, segments_BL, maths):
    wider = maths._replace(window=maths.window and maths.window + 1)
    return plain.attend(q_BLHA, k_BLKA, v_BLKA, positions_BL, segments_BL, wider)


def with_a_wrong_gradient(q_BLHA, k_BLKA, v_BLKA, positions_BL, segments_BL, maths):
    half = jax.lax.stop_gradient(q_BLHA / 2) + q_BLHA / 2
    return plain.attend(half, k_BLKA, v_BLKA, positions_BL, segments_BL, maths)


@pytest.mark.parametrize("wrong", [without_segments, with_a_wider_window, with_a_wrong_gradient])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_wrong_kernel_is_caught(wrong, dtype):
    row = check_attention("wrong", wrong, SMALL_CASES[1], dtype, length=32)
    assert row.status == "failed" and "at most" in row.note


@pytest.mark.parametrize("kernel", ["gather", "ring"])
def test_rows_divided_over_devices_are_compared(kernel):
    from model.kernels.choose import attention_of

    attend = attention_of("auto", kernel, "cpu")
    row = check_attention(kernel, attend, SMALL_CASES[0], "float32", length=32, context_devices=2)
    assert row.status == "passed"


def test_nan_is_no_small_error():
    assert compared("x", {"output": float("nan")}, {"output": 1.0}).status == "failed"


def raise_(error):
    raise error


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (Skip("needs 2 devices"), "skipped", "needs 2 devices"),
        (ValueError("no such kernel\nand more"), "failed", "ValueError: no such kernel"),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"),
            "failed",
            "out of device memory: RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes",
        ),
    ],
)
def test_a_check_that_fails_is_a_row(error, status, said):
    assert row_of(Check("it", partial(raise_, error), compares=True)) == Row("it", status, {}, said)


CHILD = f"""
import json, os, sys
first = int(sys.argv[-1])

def send(**line):
    print({MARK!r} + json.dumps(line), flush=True)

send(device={{"kind": "toy", "count": 1}})
for number in range(first, 3):
    name, compares = f"check {{number}}", number > 0
    send(begins=number, of=3, name=name, compares=compares)
    if number == CRASHES:
        print("a crash in a library", file=sys.stderr, flush=True)
        os.abort()
    row = {{"check": name, "status": "passed", "figures": {{}}, "note": ""}}
    send(row=row, compares=compares, seconds=0)
"""


@pytest.mark.parametrize(("crashes", "passed"), [(0, True), (1, False), (9, True)])
def test_a_crash_is_a_row_and_the_next_checks_go_on(crashes, passed):
    command = [sys.executable, "-c", CHILD.replace("CRASHES", str(crashes))]
    report = check_device(command, say=lambda text: None)
    assert [row["check"] for row in report["rows"]] == ["check 0", "check 1", "check 2"]
    failed = [row for row in report["rows"] if row["status"] == "failed"]
    assert report["passed"] == passed and len(failed) == (crashes < 3)
    assert all("a crash in a library" in row["note"] for row in failed)


def test_a_child_that_cannot_start_ends_the_checks():
    report = check_device(
        [sys.executable, "-c", "raise SystemExit('no module')"], say=lambda text: None
    )
    assert not report["passed"] and "no module" in report["rows"][0]["note"]


def test_missing_packages_are_named_in_one_sentence(tmp_path):
    command = [sys.executable, "-S", "-m", "launch", "bench", "device"]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "needs jax 0.11 or later" in done.stderr and "flax" in done.stderr


IMPORTED = """
import importlib.metadata, sys
import launch.bench.device.checks
known = importlib.metadata.packages_distributions()
print(*{name for module in sys.modules for name in known.get(module.split(".")[0], ())})
"""


def test_the_packages_that_are_asked_for_are_those_that_are_imported():
    command = [sys.executable, "-c", IMPORTED]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=True
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ours = {re.match(r"[\w.-]+", line)[0] for line in project["dependencies"]} - {"setuptools"}
    assert set(done.stdout.split()) & ours <= set(NEEDED)


def test_later_recipes_need_less_memory():
    shapes = [
        shape_of_recipe(
            recipe, PRESETS["llama3_1_8b"], seq_len=4096, batch_size=2 * len(jax.devices())
        )
        for recipe in RECIPES
    ]
    gigabytes = [estimated_bytes(shape) / 1e9 for shape in shapes]
    assert gigabytes == sorted(gigabytes, reverse=True)
