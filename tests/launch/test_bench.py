"""The bench of training: its arithmetic, its shapes, and one real run at a tiny size."""

import json
from functools import partial

import jax
import pytest

from launch.bench.train import Round, describe, figures, lines
from launch.job.problems import Problems
from launch.verbs.bench import shape_of
from model.architectures.llama import Llama
from model.execution import Precision
from model.mesh import make_mesh
from model.size import flops_per_token_of, n_matmul_params, n_params
from tests.launch.command import meshwright
from trainer.records.data_sheets import PEAK_BF16
from trainer.records.peak_flops import matmul_rates, n_sharers, peak_flops

NOTE_FLOPS = 6 * 31_457_280 + 12 * 8 * 8 * 64 * 512 / 2


def test_flops_of_the_note_are_the_ones_its_numbers_were_made_with():
    """1040 tokens/s are 209 GFLOP/s there."""
    with jax.set_mesh(make_mesh(jax.devices()[:1])):
        assert describe(shape_of("llama_31m", []), 1)[1] == NOTE_FLOPS
    assert round(1040 * NOTE_FLOPS / 1e9) == 209


@pytest.mark.parametrize("tied", [False, True])
def test_norms_and_an_embedding_that_is_looked_up_are_in_no_product(tied):
    sizes = Llama(
        vocab_size=128,
        width=12,
        layers=3,
        heads=4,
        kv_heads=2,
        head_width=6,
        feed_forward_width=20,
        context=8,
        tied=tied,
    )
    with jax.set_mesh(make_mesh(jax.devices()[:1])):
        params = jax.eval_shape(sizes.build(Precision()).init, jax.random.key(0))
    products = 128 * 12 + 3 * (12 * 6 * (4 + 2 + 2 + 4) + 3 * 12 * 20)
    assert n_matmul_params(params) == products
    assert n_params(params) == products + (0 if tied else 128 * 12) + 12 * (2 * 3 + 1)
    assert flops_per_token_of(sizes, params, length=8) == 6 * products + 3 * (4 * 6) * 8 * 6


def test_attention_grows_with_the_row_and_products_do_not():
    sizes = Llama(
        vocab_size=128,
        width=12,
        layers=2,
        heads=3,
        kv_heads=3,
        head_width=4,
        feed_forward_width=20,
        context=20,
    )
    with jax.set_mesh(make_mesh(jax.devices()[:1])):
        params = jax.eval_shape(sizes.build(Precision()).init, jax.random.key(0))
    products = 6 * n_matmul_params(params)
    whole, half = (
        flops_per_token_of(sizes, params, length=length) - products for length in (20, 10)
    )
    assert whole == 2 * half == 6 * 2 * 3 * 4 * 20


def test_utilisation_is_the_ratio_of_medians_over_all_devices():
    rounds = [Round(2.0, 5e9), Round(4.0, 20e9), Round(9.0, 10e9)]
    found = figures(rounds, tokens=4000, flops_per_token=1e7, n_devices=2)
    assert (
        found["mfu"] == 0.5
        and found["tokens_per_s"] == 1000
        and found["matmul_flops_per_s"] == 20e9
        and found["peak_bytes"] > 2**20
    )
    text = "\n".join(lines(found, rounds, 2))
    for shown in (
        "4.000 s",
        "(2.000 to 9.000)",
        "1,000 tokens/s",
        "10 GFLOP/s",
        "20 GFLOP/s  (10 to 40)",
        "50.0%",
    ):
        assert shown in text


def test_virtual_devices_share_the_measured_rate_of_their_processor():
    device = jax.devices()[0]
    assert n_sharers(device) == len(jax.devices()) == 8
    assert peak_flops(device) == peak_flops(device) > 0
    assert len(matmul_rates(device, n_repeats=3, size=64)) == 3


def test_a_longer_name_stands_before_its_prefix():
    """The first prefix that fits counts: a TPU v5 lite is not a TPU v5."""
    names = list(PEAK_BF16)
    assert all(
        not later.startswith(earlier) for i, earlier in enumerate(names) for later in names[i + 1 :]
    )


def test_every_problem_of_a_shape_is_reported_at_once():
    with pytest.raises(Problems) as refused:
        shape_of("llama_31m", ["widht=3", "train.batch_size=0", "no equals sign"])
    assert len(refused.value.problems) == 3


def test_the_command_prints_speed_and_utilisation(tmp_path):
    sizes = [
        "layers=2",
        "width=32",
        "heads=2",
        "kv_heads=2",
        "head_width=16",
        "feed_forward_width=64",
        "vocab_size=128",
        "context=16",
    ]
    settings = [word for size in sizes for word in ("--set", f"architecture.{size}")]
    run = partial(
        meshwright,
        "bench",
        "train",
        "--rounds",
        "1",
        "--set",
        "seq_len=16",
        *settings,
        cwd=tmp_path,
    )
    done, as_json = run(), run("--json")
    assert done.returncode == as_json.returncode == 0, done.stderr + as_json.stderr
    assert "tokens/s" in done.stdout and "MFU" in done.stdout
    found = json.loads(as_json.stdout)
    assert {"tokens_per_s", "mfu", "matmul_flops_per_s", "peak_bytes"} <= set(found)
    assert found["tokens_per_s"] * found["step_s"] == pytest.approx(8 * 16)


def test_a_config_that_trains_nothing_and_an_unknown_name_are_said(tmp_path):
    (tmp_path / "nothing.yaml").write_text("{}")
    for name, said in ((str(tmp_path / "nothing.yaml"), "nothing.yaml"), ("tyni", "nearest: tiny")):
        with pytest.raises(ValueError, match=said):
            shape_of(name, [])
