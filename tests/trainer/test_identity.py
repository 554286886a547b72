"""Laws of identity: what may change when a run goes on, what may not, and how the user is told."""

import pytest

from data_pipeline.loader import PackedShards
from tests.examples import SIZES
from trainer.checkpoints.checkpointer import Checkpoints
from trainer.identity import (
    architecture_difference,
    changes,
    check_identity,
    flat,
    is_free,
    run_fingerprint,
)
from trainer.objectives.next_token import NextToken
from trainer.optimizer import Optimizer
from trainer.optimizers.adamw import AdamW
from trainer.run import Run
from trainer.schedules import WarmupCosine

RUN = Run(
    architecture=SIZES,
    objective=NextToken(),
    data=PackedShards(
        folder="data/train", weights={"web": 3.0, "code": 1.0}, seq_len=16, batch_size=8
    ),
    optimizer=Optimizer(
        rule=AdamW(),
        peak_lr=1e-3,
        schedule=WarmupCosine(warmup_steps=2, end_frac=0.1),
        weight_decay=0.1,
    ),
    steps=10,
    checkpoint=Checkpoints(every_steps=5),
).model_dump(mode="json")


def with_(path: str, value: object) -> dict:
    return _with(RUN, path.split("."), value)


def _with(tree: dict, keys: list[str], value: object) -> dict:
    head, *rest = keys
    return {**tree, head: _with(tree[head], rest, value) if rest else value}


FREE = [
    ("steps", 20),
    ("micro_batches", 4),
    ("mesh", {**RUN["mesh"], "fsdp": 4}),
    ("data.batch_size", 16),
    ("checkpoint.every_steps", 1),
    ("evals", [{"type": "HeldOut"}]),
    ("evaluate_every", 3),
    ("optimizer.peak_lr", 1e-4),
    ("optimizer.weight_decay", 0.0),
    ("optimizer.rule.b2", 0.99),
    ("guard.sigmas", 4.0),
    ("health.hang_s", 60.0),
]
IDENTITY = [
    ("architecture.layers", 4),
    ("architecture.type", "Gemma"),
    ("objective", {"type": "DPO", "beta": 0.1}),
    ("optimizer.rule.type", "Lion"),
    ("guard.window", 64),
    ("seed", 1),
    ("start_from", "pretrain"),
    ("data.folder", "other"),
    ("data.seq_len", 8),
    ("data.weights", {"web": 3.0, "code": 2.0}),
    ("adaptation", {"type": "LoRA", "rank": 4}),
]


@pytest.mark.parametrize(("path", "value"), FREE, ids=[path for path, _ in FREE])
def test_a_free_field_may_change_and_the_difference_is_told(path, value):
    told = check_identity(RUN, with_(path, value), allow_change=(), folder="runs/x/pretrain")
    assert told and all(line.startswith(path) and " -> " in line for line in told)


@pytest.mark.parametrize(("path", "value"), IDENTITY, ids=[path for path, _ in IDENTITY])
def test_an_identity_field_may_not_change_unless_it_is_allowed_by_name(path, value):
    with pytest.raises(
        ValueError,
        match=rf"runs/x/pretrain holds checkpoints of another run \({path}.*--allow-change pretrain\.{path}",
    ):
        check_identity(
            RUN,
            with_(path, value),
            allow_change=("data.batch_size", "see"),
            folder="runs/x/pretrain",
        )
    assert check_identity(RUN, with_(path, value), allow_change=(path,), folder="runs/x/pretrain")


@pytest.mark.parametrize(
    ("path", "value"), [("optimizer.clip_norm", None), ("optimizer.ema_decay", 0.99)]
)
def test_a_field_that_adds_or_removes_optimizer_state_cannot_be_switched(path, value):
    with pytest.raises(
        ValueError, match=f"checkpoints with {path}=.* needs another optimizer state"
    ):
        check_identity(RUN, with_(path, value), allow_change=(path,), folder="runs/x/pretrain")
    told = check_identity(
        RUN, with_("optimizer.clip_norm", 2.0), allow_change=(), folder="runs/x/pretrain"
    )
    assert told == ["optimizer.clip_norm: 1.0 -> 2.0"]


def test_another_rule_is_told_by_its_type_and_not_by_fields_that_it_has_not():
    saved = with_("optimizer.rule", {"type": "AdamW", "b1": 0.9})
    now = with_("optimizer.rule", {"type": "Adafactor", "b1": None})
    with pytest.raises(ValueError, match=r"another run \(optimizer.rule.type: 'AdamW' saved"):
        check_identity(saved, now, allow_change=(), folder="runs/x/pretrain")


def test_every_identity_field_that_differs_is_shown_with_both_values():
    with pytest.raises(
        ValueError, match=r"architecture.width: 16 saved, 32 asked for; seed: 0 saved, 7 asked for"
    ) as error:
        check_identity(
            RUN,
            {**with_("architecture.width", 32), "seed": 7, "steps": 99},
            allow_change=(),
            folder="x",
        )
    assert "steps" not in str(error.value) and "\n" not in str(error.value)


def test_architectures_that_differ_are_told_by_the_fields_that_do():
    wider = SIZES.model_copy(update={"width": 32, "norm_eps": 0.5})
    sentence = architecture_difference(wider, SIZES, "start_from=base")
    there = f"width: 32 there, {SIZES.width} here"
    assert sentence.startswith("differs from that of start_from=base (") and there in sentence
    assert "norm_eps: 0.5 there" in sentence and "Llama" not in sentence


def test_the_same_run_has_no_differences():
    assert changes(RUN, RUN) == {} and check_identity(RUN, RUN, allow_change=(), folder="x") == []


def test_a_field_that_came_or_went_is_a_difference():
    shorter = {name: value for name, value in RUN.items() if name != "seed"}
    assert changes(shorter, RUN) == {"seed": (None, 0)} and changes(RUN, shorter) == {
        "seed": (0, None)
    }
    assert set(changes(RUN, with_("data.weights", {"web": 3.0}))) == {"data.weights.code"}


def test_flat_names_every_leaf_by_its_path():
    assert flat({"a": {"b": 1, "c": [2, {"d": 3}]}, "e": None}) == {
        "a.b": 1,
        "a.c.0": 2,
        "a.c.1.d": 3,
        "e": None,
    }


@pytest.mark.parametrize(
    "path", ["meshes", "data.batch_size_x", "optimizers.peak_lr", "optimizer.rule.type", "steps_x"]
)
def test_a_name_that_only_begins_like_a_free_field_is_not_free(path):
    assert not is_free(path)


@pytest.mark.parametrize(
    ("path", "value"), FREE + IDENTITY, ids=[path for path, _ in FREE + IDENTITY]
)
def test_the_fingerprint_of_a_finished_phase_ignores_where_it_ran_and_how_it_was_watched_and_nothing_else(
    path, value
):
    field = path.partition(".")[0]
    unimportant = (
        "mesh",
        "micro_batches",
        "checkpoint",
        "evals",
        "evaluate_every",
        "guard",
        "health",
    )
    ignored = field in unimportant
    assert (run_fingerprint(with_(path, value)) == run_fingerprint(RUN)) is ignored


def test_the_fingerprint_does_not_depend_on_the_order_of_fields():
    assert run_fingerprint(dict(reversed(RUN.items()))) == run_fingerprint(RUN)
