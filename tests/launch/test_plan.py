"""What `meshwright plan` says: the compiler's figures, the sizes' figures beside them, published figures
beside both.
"""

import argparse
import json
import math

import jax
import pytest

from data_pipeline.component import FrozenMap
from data_pipeline.loader import PackedShards
from launch.configs.llama2_7b import llama2_7b
from launch.configs.llama2_70b import llama2_70b
from launch.planning.advise import remedies
from launch.planning.analytic import Plan, computed_again, memory_of_plan, outline_of, work_of_plan
from launch.planning.answer import as_json, lines
from launch.planning.calibrate import ACCEPTED_POINTS, mean_error, predict, table
from launch.planning.candidates import Setting, applied, candidates, meshes, overrides, present
from launch.planning.compile import DoesNotFit, Step, compile_step, step_of
from launch.planning.network import wiring_of
from launch.planning.plan import Planner
from launch.planning.published import outline, published
from launch.planning.roofline import Efficiency, Work, estimate
from launch.planning.topology import target_of
from launch.verbs.plan import phase_of
from model.architectures.llama import Llama
from model.execution import Execution, Pipeline, Remat
from model.mesh import Mesh
from model.sharding import AXES
from tests.launch.absent import absent_mesh, shape_on
from tests.launch.command import ROOT, meshwright
from trainer.checkpoints.checkpointer import Checkpoints
from trainer.objectives.next_token import NextToken
from trainer.optimizer import Optimizer
from trainer.optimizers.adamw import AdamW
from trainer.run import Run
from trainer.schedules import WarmupCosine

SMALL = Llama(
    vocab_size=1000,
    width=256,
    layers=6,
    heads=4,
    kv_heads=2,
    head_width=128,
    feed_forward_width=768,
    context=512,
)
NEEDED = (
    "hbm_arguments_bytes",
    "hbm_temporaries_bytes",
    "hbm_peak_bytes",
    "collective_bytes",
    "model_flops",
)
PREDICTED = ("predicted_step_s", "predicted_mfu", "tokens_per_s")


def small_run(**changes):
    """A Run whose data is nowhere."""
    fields = {
        "architecture": SMALL,
        "objective": NextToken(),
        "data": PackedShards(
            folder="nowhere", weights=FrozenMap(web=1.0), seq_len=512, batch_size=8
        ),
        "optimizer": Optimizer(
            rule=AdamW(),
            peak_lr=1e-3,
            schedule=WarmupCosine(warmup_steps=2, end_frac=0.1),
            weight_decay=0.1,
        ),
        "steps": 10,
        "checkpoint": Checkpoints(every_steps=5),
        "execution": Execution(remat=Remat(preset="full")),
    }
    return Run(**{**fields, **changes})


@pytest.fixture(scope="module")
def compiled():
    """The step of a small model on 4 chips, compiled."""
    said = []
    planner = Planner("pretrain", small_run(), target_of("v5p:2x2x1"), hlo=None, say=said.append)
    return planner.answer(planner.run)


def test_the_compilers_arguments_are_the_state_and_the_batch(compiled):
    outline, sizes = outline_of(small_run()), {**dict.fromkeys(AXES, 1), "fsdp": 4}
    plan = Plan(sizes, 8, 1, small_run().execution)
    batch = 6 * 8 / 4 * 512 * 4
    by_sizes = memory_of_plan(outline, plan).arguments
    assert (
        by_sizes + batch <= compiled.memory.arguments <= 1.05 * (by_sizes + batch)
    )  # small arrays are padded to tiles
    assert compiled.memory.peak >= compiled.memory.arguments + compiled.memory.temporaries


def test_the_products_that_sizes_foresee_are_those_of_the_program(compiled):
    run = small_run()
    foreseen = work_of_plan(
        outline_of(run), Plan({**dict.fromkeys(AXES, 1), "fsdp": 4}, 8, 1, run.execution)
    )
    padding = (
        8 * 512 / 4 * 8 * SMALL.width * (1024 - SMALL.vocab_size)
    )  # of the vocabulary: 8 products' worth a token, as for the rest of it
    assert compiled.work.matmul_flops == pytest.approx(foreseen.matmul_flops + padding, rel=0.03)
    assert (
        0.5 <= compiled.work.kernel_flops / foreseen.kernel_flops <= 2
    )  # one block is the whole row: nothing is skipped
    assert compiled.work.notes == ()


def test_only_the_axes_of_the_mesh_carry_collectives(compiled):
    assert {each.axes for each in compiled.work.transfers} == {("fsdp",)}
    gathered = sum(each.n_bytes for each in compiled.work.transfers if each.kind == "all-gather")
    matrices = sum(leaf.n for leaf in outline_of(small_run()).params if leaf.is_layer)
    assert gathered >= 2 * 2 * matrices  # bfloat16, forward and backward


def test_the_json_has_what_scripts_need_and_the_lines_say_the_same(compiled):
    told = json.loads(json.dumps(as_json(compiled)))
    assert all(told[name] for name in (*NEEDED, *PREDICTED))
    assert told["tokens_per_s"] == pytest.approx(8 * 512 / told["predicted_step_s"])
    assert told["predicted_mfu"] == pytest.approx(
        told["model_flops"] / told["predicted_step_s"] / 459e12
    )
    text = "\n".join(lines(compiled))
    assert (
        "HBM temporaries" in text
        and "chip table: Google Cloud" in text
        and "assumed: attention is causal" in text
    )


def test_what_an_offload_takes_off_the_chip_and_moves_is_what_sizes_foresee(compiled):
    execution = Execution(remat=Remat(preset="full"), offload=("optimizer",))
    run = small_run(execution=execution)
    planner = Planner("pretrain", run, target_of("v5p:2x2x1"), hlo=None, say=print)
    away, plan = planner.answer(run), Plan({**dict.fromkeys(AXES, 1), "fsdp": 4}, 8, 1, execution)
    state = memory_of_plan(outline_of(run), plan).host
    assert compiled.memory.arguments - away.memory.arguments == pytest.approx(
        state, rel=0.3
    )  # tiles pad what is on the chip
    assert away.memory.host >= 0.9 * state
    assert away.work.host_bytes == pytest.approx(
        work_of_plan(outline_of(run), plan).host_bytes, rel=0.01
    )
    assert away.estimate.host_s > 0 == compiled.estimate.host_s


def test_a_program_too_large_for_a_chip_is_told_by_the_compilers_figures():
    mesh = absent_mesh("v5e:2x2", fsdp=4)
    x = shape_on(mesh, (2**34,), "fsdp")
    with pytest.raises(DoesNotFit) as shortage:
        compile_step(Step(jax.jit(lambda x, y: x * y), (x, x), mesh, 1, 1.0))
    assert shortage.value.needed > shortage.value.available == int(15.75 * 2**30)


def test_sizes_that_do_not_divide_are_refused_by_name_before_compiling():
    mesh = absent_mesh("v5p:2x2x1", fsdp=4)
    with pytest.raises(
        ValueError,
        match="data.batch_size=6 does not divide over fsdp = 4 devices; choose a multiple of 4",
    ):
        step_of(small_run(data=small_run().data.model_copy(update={"batch_size": 6})), mesh)
    with pytest.raises(ValueError, match="does not divide D=254"):
        step_of(small_run(architecture=SMALL.model_copy(update={"width": 254})), mesh)


@pytest.mark.parametrize(
    ("preset", "less"),
    [
        ("none", "projections"),
        ("projections", "inputs"),
        ("inputs", "attention"),
        ("attention", "full"),
    ],
)
def test_what_is_computed_again_costs_products_and_saves_memory(preset, less):
    outline = outline_of(small_run())
    sizes = {**dict.fromkeys(AXES, 1), "fsdp": 4}
    more, fewer = (
        Plan(sizes, 8, 1, Execution(remat=Remat(preset=each))) for each in (preset, less)
    )
    assert memory_of_plan(outline, more).temporaries > memory_of_plan(outline, fewer).temporaries
    flops = [
        work.matmul_flops + work.kernel_flops
        for work in (work_of_plan(outline, more), work_of_plan(outline, fewer))
    ]
    assert flops[0] <= flops[1]


def test_what_rests_on_the_host_frees_memory_and_costs_the_way_there_and_back():
    outline, sizes = outline_of(small_run()), {**dict.fromkeys(AXES, 1), "fsdp": 4}
    here, there = (
        Plan(sizes, 8, 1, Execution(offload=offload)) for offload in ((), ("optimizer",))
    )
    freed = memory_of_plan(outline, here).arguments - memory_of_plan(outline, there).arguments
    assert freed == pytest.approx(memory_of_plan(outline, there).host, abs=2) and freed > 0
    assert work_of_plan(outline, there).host_bytes == pytest.approx(2 * freed, abs=4)


def test_a_pipeline_passes_each_micro_batch_on_in_every_round():
    pipeline = Pipeline(rounds=3, micro_batches=4)
    plan = Plan({**dict.fromkeys(AXES, 1), "stage": 2}, 8, 1, Execution(pipeline=pipeline))
    work = work_of_plan(outline_of(small_run()), plan)
    (sends,) = [each for each in work.transfers if each.kind == "collective-permute"]
    ticks = 3 * 4 + 2 - 1
    micro_batch_bytes = 8 / 4 * 512 * SMALL.width * 2  # two of the eight rows, in bfloat16
    assert sends.n_calls == 2 * ticks  # activations forward, gradients backward
    assert sends.n_bytes == 2 * ticks * micro_batch_bytes
    assert work.slowdown == 1 + 1 / (3 * 4)


def test_what_is_kept_is_not_computed_again():
    again, attention = computed_again(
        Execution(remat=Remat(preset="full", keep=("query", "mixed"), offload=("gate",)))
    )
    assert again == {"key", "value", "attention", "up"} and not attention


def test_llama_2_7b_by_sizes_is_what_the_compiler_said():
    """mesh_design.md's prototype on 16 chips: 5.05 GB of arguments, 10.85 GB of temporaries, 818.7 TFLOP of
    products, 26.4 GB gathered.
    """
    run = llama2_7b()["pretrain"]
    plan = Plan({**dict.fromkeys(AXES, 1), "fsdp": 16}, 64, 1, run.execution)
    memory, work = memory_of_plan(outline_of(run), plan), work_of_plan(outline_of(run), plan)
    assert memory.arguments == pytest.approx(5.05e9, rel=0.01)
    assert memory.temporaries == pytest.approx(10.85e9, rel=0.1)
    assert work.matmul_flops == pytest.approx(818.7e12, rel=0.001)
    assert work.transfers[0].n_bytes == pytest.approx(26.4e9, rel=0.03)


@pytest.mark.parametrize(
    ("model", "billions"), [(f"{n}B", n) for n in (16, 32, 64, 128, 256, 512, 1024, 22, 52)]
)
def test_the_models_of_the_published_tables_have_their_size(model, billions):
    assert sum(leaf.n for leaf in outline(model, 2048).params) == pytest.approx(
        billions * 1e9, rel=0.1
    )


def test_predicted_mfu_is_near_the_published():
    predictions = [predict(row) for row in published()]
    assert len(predictions) >= 40
    assert mean_error(predictions) <= ACCEPTED_POINTS
    assert max(abs(each.difference) for each in predictions) <= 2 * ACCEPTED_POINTS
    page = (ROOT / "docs" / "planning.md").read_text(encoding="utf-8")
    assert "\n".join(table(predictions)) in page  # made anew by `python -m launch.planning`


def test_the_longer_of_products_and_memory_counts_and_the_network_hides_in_part():
    wiring = wiring_of(absent_mesh("v5p:2x2x1", fsdp=4), target_of("v5p:2x2x1"))
    ideal = Efficiency(matmul=1.0, kernel=1.0, hbm=1.0, network=1.0, overlap=0.5)
    work = Work(matmul_flops=459e12, kernel_flops=0.0, hbm_bytes=2.765e12 / 2, transfers=())
    assert estimate(work, wiring, ideal).step_s == pytest.approx(1.0)
    assert estimate(work._replace(hbm_bytes=2 * 2.765e12), wiring, ideal).step_s == pytest.approx(
        2.0
    )
    assert estimate(work._replace(slowdown=1.25), wiring, ideal).step_s == pytest.approx(1.25)


def on_gpus(run, name):
    """A setting of dials where nothing is compiled."""
    return Setting(run, outline_of(run), target_of(name), ())


def test_every_candidate_fits_divides_and_is_written_as_overrides_that_give_it():
    run = small_run()
    setting = on_gpus(run, "h100:8")
    found = candidates(setting)
    assert found == sorted(found, key=lambda each: (each.estimate.step_s, each.memory.peak))
    for each in found:
        assert (
            math.prod(each.plan.sizes.values()) == 8
            and each.memory.peak < setting.target.chip.hbm_bytes
        )
        again = applied(run, each.plan)
        assert again.data.batch_size == 8 and present(setting._replace(run=again)) == each.plan
    assert (
        overrides("pretrain", run, present(setting)) == "--set pretrain.mesh.fsdp=8"
    )  # -1 in the config
    tensor = applied(run, found[0].plan).model_copy(update={"mesh": Mesh(fsdp=4, tensor=2)})
    assert overrides("pretrain", run, present(setting._replace(run=tensor))).startswith(
        "--set pretrain.mesh.fsdp=4 --set pretrain.mesh.tensor=2"
    )


def test_meshes_keep_slices_on_the_outer_part_of_data():
    setting = Setting(small_run(), outline_of(small_run()), target_of("v5p:2x2x1", 2), ())
    found = list(meshes(setting))
    assert found and all(
        sizes["data"] % 2 == 0 and math.prod(sizes.values()) == 8 for sizes in found
    )


def test_what_does_not_fit_is_told_which_dial_to_turn():
    run = llama2_70b()["pretrain"]
    setting = on_gpus(
        run.model_copy(
            update={
                "data": run.data.model_copy(update={"batch_size": 16}),
                "mesh": Mesh(data=4, fsdp=4),
            }
        ),
        "h200:16",
    )
    (whole,) = [line for line in remedies(setting, "pretrain") if "mesh" in line]
    assert whole.startswith("--set pretrain.mesh.data=1 --set pretrain.mesh.fsdp=16")
    assert "no setting of the dials fits" in remedies(on_gpus(run, "h100:2"), "pretrain")[0]


def test_gpus_are_reckoned_by_sizes_and_it_is_said():
    planner = Planner("pretrain", llama2_7b()["pretrain"], target_of("h100:8"), hlo=None, say=print)
    report = planner.one()
    assert report.code == 0 and report.json["compiled"] is False
    assert "by sizes alone" in report.lines[0]


def test_a_search_ranks_what_fits_and_writes_the_winners_set_line():
    planner = Planner(
        "pretrain", llama2_7b()["pretrain"], target_of("h100:8"), hlo=None, say=lambda line: None
    )
    report = planner.search(3)
    steps = [each["predicted_step_s"] for each in report.json["ranking"]]
    assert report.code == 0 and len(steps) == 3 and steps == sorted(steps)
    assert report.json["predicted_step_s"] == steps[0] <= planner.one().json["predicted_step_s"]
    assert report.lines[-1] == f"the fastest: {report.json['set']}" and report.json[
        "set"
    ].startswith("--set pretrain.")


def test_a_phase_is_found_by_name_or_is_the_first_that_trains():
    job = argparse.Namespace(name="llama2_7b", phases=llama2_7b())
    assert phase_of(job, None)[0] == "pretrain"
    with pytest.raises(
        ValueError, match="--phase data: no training phase of llama2_7b; choose of pretrain"
    ):
        phase_of(job, "data")


def test_the_command_needs_no_data_and_says_with_code_3_what_does_not_fit(tmp_path):
    done = meshwright("plan", "llama2_7b", "--topology", "h100:8", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert all(name in json.loads(done.stdout) for name in (*NEEDED, *PREDICTED))
    done = meshwright("plan", "llama2_70b", "--topology", "h100:8", cwd=tmp_path)
    assert done.returncode == 3
    assert (
        done.stderr.startswith("meshwright: error: pretrain does not fit h100:8")
        and "Traceback" not in done.stderr
    )
    done = meshwright("plan", "llama2_7b", "--topology", "v5q:2x2", cwd=tmp_path)
    assert done.returncode == 2 and "no such chip; nearest: v5p" in done.stderr
    assert list(tmp_path.iterdir()) == []
