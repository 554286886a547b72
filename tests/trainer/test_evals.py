"""Laws of the evaluations: averages over sets and over targets, and answers that are graded, on any mesh."""

import json
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline.chat.roles import Roles
from data_pipeline.component import FrozenMap
from data_pipeline.loader import PackedShards
from data_pipeline.tasks.asked import asked_in_chat, asked_in_text
from data_pipeline.tasks.questions import Questions
from data_pipeline.tokenizers.tokenizer import SentencePiece, Tokenizer
from inference.decode import generate
from inference.sample import Greedy
from inference.text import what_ends
from model.api import ModelInputs, Params, finish_logits
from model.architectures.llama import Llama
from tests.examples import (
    MESHES,
    ONE_DEVICE,
    built,
    params_on,
    random_documents,
    under,
    write_documents,
)
from trainer.checkpoints.retention import Checkpoints
from trainer.evals.held_out import HeldOut
from trainer.evals.subject import Findings, Subject
from trainer.evals.tasks import TaskEval
from trainer.objective import Policies
from trainer.objectives.distill import Distill
from trainer.objectives.dpo import DPO
from trainer.objectives.next_token import NextToken
from trainer.optimizer import Optimizer
from trainer.optimizers.adamw import AdamW
from trainer.run import Run
from trainer.schedules import Constant

VOCAB, CONTEXT = 384, 96
SIZES = Llama(
    vocab_size=VOCAB,
    width=16,
    layers=2,
    heads=4,
    kv_heads=2,
    head_width=6,
    feed_forward_width=24,
    context=CONTEXT,
)
WHERE = pytest.mark.parametrize("mesh", [ONE_DEVICE, MESHES[1]], ids=str)
N_ASKED, SHOTS, MAX_TOKENS = 6, 1, 7
OF_TEXT = NextToken()


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Path:
    """A tokenizer, and two sets of very different sizes."""
    folder, rng = tmp_path_factory.mktemp("job"), np.random.default_rng(0)
    text = Path(__file__).read_text()
    SentencePiece(vocab_size=VOCAB, model="bpe").train([text], folder / "data/tokenizer.model")
    for name, n in (("web", 30), ("code", 4)):
        write_documents(
            folder / "held_out" / name, random_documents(rng, rng.integers(3, 14, n), VOCAB)
        )
    return folder


def subject_of(job: Path, mesh: jax.sharding.Mesh) -> Subject:
    tokenizer = Tokenizer(job / "data/tokenizer.model")
    model = built(SIZES)

    def policies(params: Params) -> Policies:
        return {"policy": (model, params)}

    where = mesh, job / "pretrain", False, job
    return Subject({"policy": model}, policies, NextToken(), *where, tokenizer, CONTEXT)


def measured(evaluation: HeldOut | TaskEval, job: Path, mesh: dict) -> Findings:
    with jax.set_mesh(under(mesh)):
        params = params_on(under(mesh), SIZES)
        measure: Callable = evaluation.open(
            subject_of(job, under(mesh)), lambda: {"policy": (built(SIZES), params)}
        )
        return measure(params)


def held_out(*names: str, **fields) -> HeldOut:
    weights = FrozenMap(dict.fromkeys(names, 1.0))
    return HeldOut(
        data=PackedShards(folder="held_out", weights=weights, seq_len=16, batch_size=8), **fields
    )


@WHERE
def test_macro_is_the_mean_over_sets_and_micro_the_mean_over_their_targets(mesh, job):
    numbers = measured(held_out("web", "code"), job, mesh).numbers
    rows = held_out("web", "code").data.sources(job)
    n = {
        name: sum(float(source[i]["weight_L"].sum()) for i in range(len(source)))
        for name, source in rows.items()
    }
    for metric in ("loss", "accuracy"):
        web, code = numbers[f"web/{metric}"], numbers[f"code/{metric}"]
        assert numbers[f"macro/{metric}"] == pytest.approx((web + code) / 2, rel=1e-6)
        assert numbers[f"micro/{metric}"] == pytest.approx(
            (web * n["web"] + code * n["code"]) / sum(n.values()), rel=1e-6
        )
    assert abs(numbers["macro/loss"] - numbers["micro/loss"]) > 1e-4
    n_bytes = {
        name: n[name] * numbers[f"{name}/loss"] / np.log(2) / numbers[f"{name}/bits_per_byte"]
        for name in n
    }
    assert numbers["macro/bits_per_byte"] == pytest.approx(
        (numbers["web/bits_per_byte"] + numbers["code/bits_per_byte"]) / 2
    )
    bits = numbers["micro/loss"] * sum(n.values()) / np.log(2)
    assert numbers["micro/bits_per_byte"] == pytest.approx(bits / sum(n_bytes.values()), rel=1e-5)


def test_one_set_has_no_averages_and_a_name_stands_before_every_set(job):
    alone = measured(held_out("web"), job, ONE_DEVICE).numbers
    named = measured(held_out("web", "code", name="easy"), job, ONE_DEVICE).numbers
    assert {name.split("/")[0] for name in alone} == {"web"} and {
        name.split("/")[0] for name in named
    } == {"easy"}
    assert {name.split("/")[1] for name in named} == {"web", "code", "macro", "micro"}
    assert named["easy/web/loss"] == alone["web/loss"]


def test_an_objective_of_its_own_measures_as_if_it_were_that_of_the_run(job):
    own = held_out("web", objective=NextToken())
    with jax.set_mesh(under(ONE_DEVICE)):
        params = params_on(under(ONE_DEVICE), SIZES)
        subject = subject_of(job, under(ONE_DEVICE))._replace(objective=DPO(beta=0.1))
        numbers = own.open(subject, lambda: {"policy": (built(SIZES), params)})(params).numbers
    assert numbers == measured(held_out("web"), job, ONE_DEVICE).numbers


def test_an_objective_of_its_own_has_to_fit_the_data_and_the_models_of_the_run():
    run = asked(objective=DPO(beta=0.1))
    assert held_out("web", objective=NextToken()).problems(run) == []
    misfit = "evals: PackedShards of seq_len=16 does not fit {} objective or the context; choose it like `data`"
    assert held_out("web").problems(run) == [misfit.format("the run's")]
    assert held_out("web", objective=DPO(beta=0.1)).problems(asked()) == [misfit.format("its own")]
    needy = held_out("web", objective=Distill(temperature=2.0, nll_weight=0.3))
    lacking = "evals: its own objective needs teacher, which the run does not have; use another"
    assert needy.problems(asked()) == [lacking]


@pytest.fixture(scope="module")
def task(job) -> Questions:
    """Questions whose right answers are what the model says, in half of the cases; the first is the
    example.
    """
    rows = [{"q": f"What stands in line {i}?", "a": "nothing"} for i in range(SHOTS + N_ASKED)]
    path = job / "task.json"
    path.write_text(json.dumps(rows))
    task = Questions(name="lines", path=str(path), question=("q",), answer="a")
    shots, *items = task.items()
    for row, said in list(zip(rows[SHOTS:], written(job, [shots], items, chat=False), strict=True))[
        ::2
    ]:
        row["a"] = said
    path.write_text(json.dumps(rows))
    return task


def written(job: Path, shots: list, items: list, *, chat: bool) -> list[str]:
    """The greedy answers, one prompt at a time."""
    with jax.set_mesh(under(ONE_DEVICE)):
        subject, params = subject_of(job, under(ONE_DEVICE)), params_on(under(ONE_DEVICE), SIZES)
        t = subject.tokenizer
        limits = {"context": CONTEXT, "max_tokens": MAX_TOKENS, **what_ends(t, None)}
        asked = [
            asked_in_chat(item, shots, Roles(t)) if chat else asked_in_text(item, shots, t)
            for item in items
        ]
        prompts = [each.prompt for each in asked]
        answers = [
            generate(subject.model, params, [p], sampler=Greedy(), key=jax.random.key(0), **limits)[
                0
            ]
            for p in prompts
        ]
        return [t.decode(answer) for answer in answers]


@WHERE
def test_accuracy_is_the_share_of_answers_that_are_right_and_answer_loss_that_of_the_right_ones(
    mesh, job, task
):
    asking = TaskEval(tasks=(task,), questions=50, shots=SHOTS, max_tokens=MAX_TOKENS, chat=False)
    findings = measured(asking, job, mesh)
    assert (
        findings.numbers["lines/accuracy"] == 0.5 and findings.numbers["lines/questions"] == N_ASKED
    )
    assert findings.numbers["lines/answer_loss"] == pytest.approx(
        expected_loss(job, task), rel=1e-5
    )
    assert findings.texts == [
        {"prompt": task.items()[SHOTS].prompt, "text": task.items()[SHOTS].answer.strip()}
    ]


def expected_loss(job: Path, task: Questions) -> float:
    """Question by question, from all logits."""
    total = n = 0.0
    with jax.set_mesh(under(ONE_DEVICE)):
        model, params = built(SIZES), params_on(under(ONE_DEVICE), SIZES)
        apply = jax.jit(
            lambda tokens_BL: (
                model.apply(
                    params, ModelInputs(tokens_BL, at_BL, jnp.ones_like(tokens_BL))
                ).hidden_BLD
            )
        )
        at_BL = jnp.arange(CONTEXT)[None]
        shot, *items = task.items()
        for item in items:
            asked = asked_in_text(item, [shot], Tokenizer(job / "data/tokenizer.model"))
            tokens = [*asked.prompt, *asked.gold]
            padded_BL = jnp.array([tokens + [0] * (CONTEXT - len(tokens))], jnp.int32)
            logits_LV = finish_logits(
                apply(padded_BL)[0] @ model.unembed(params), vocab_size=VOCAB, soft_cap=None
            )
            logp_LV = jax.nn.log_softmax(logits_LV.astype(jnp.float32))
            first = len(asked.prompt) - 1
            total -= float(sum(logp_LV[first + i, token] for i, token in enumerate(asked.gold)))
            n += len(asked.gold)
    return total / n


def test_a_user_asks_and_the_examples_are_turns(job, task):
    shot, *items = task.items()
    rows = [{"q": shot.prompt, "a": shot.answer}, *({"q": item.prompt, "a": "?"} for item in items)]
    rows[2]["a"] = written(job, [shot], items, chat=True)[1]
    (job / "chat.json").write_text(json.dumps(rows))
    asked = task.model_copy(update={"path": str(job / "chat.json")})
    numbers = measured(
        TaskEval(tasks=(asked,), questions=2, shots=1, max_tokens=MAX_TOKENS, chat=True),
        job,
        ONE_DEVICE,
    ).numbers
    assert numbers["lines/questions"] == 2 and numbers["lines/accuracy"] in (0.0, 0.5)
    numbers = measured(
        TaskEval(tasks=(asked,), questions=6, shots=1, max_tokens=MAX_TOKENS, chat=True),
        job,
        ONE_DEVICE,
    ).numbers
    assert numbers["lines/accuracy"] == pytest.approx(1 / 6)


def test_what_does_not_fit_is_not_asked_and_when_nothing_fits_it_is_said_so(job, tmp_path):
    rows = [{"q": "What? " * n, "a": "no"} for n in (1, 2, 400)]
    (tmp_path / "task.json").write_text(json.dumps(rows))
    task = Questions(name="long", path=str(tmp_path / "task.json"), question=("q",), answer="a")
    asking = TaskEval(tasks=(task,), questions=3, shots=0, max_tokens=4, chat=False)
    assert measured(asking, job, ONE_DEVICE).numbers["long/questions"] == 2
    with pytest.raises(
        ValueError,
        match=r"no question of long fits with 0 examples and max_tokens=95 into architecture.context=96; lower",
    ):
        measured(asking.model_copy(update={"max_tokens": 95}), job, ONE_DEVICE)


def asked(*evals: HeldOut | TaskEval, objective: NextToken | DPO = OF_TEXT) -> Run:
    """A run with these evaluations."""
    schedule = Constant(warmup_steps=0)
    return Run(
        architecture=SIZES,
        objective=objective,
        data=held_out("web").data,
        optimizer=Optimizer(rule=AdamW(), peak_lr=1e-3, schedule=schedule, weight_decay=0.0),
        steps=1,
        checkpoint=Checkpoints(every_steps=1),
        evals=evals,
    )


def test_evaluations_that_would_share_a_name_are_told():
    task = Questions(name="sums", path="nowhere", question=("q",), answer="a")
    asking = TaskEval(tasks=(task,), questions=3, shots=0, max_tokens=4, chat=False)
    assert (
        asking.problems(asked(asking))
        == []
        == held_out("web").problems(asked(held_out("web"), held_out("web", name="more")))
    )
    assert asking.problems(asked(asking, asking)) == [
        "evals: two tasks are named sums; give one of them another name"
    ]
    two = asked(held_out("web"), held_out("code"))
    assert held_out("web").problems(two) == []
    twice = asked(held_out("web"), held_out("web", "code"))
    assert held_out("web").problems(twice) == [
        "evals: two HeldOut report web; give one of them another name"
    ]
    long = asking.model_copy(update={"max_tokens": CONTEXT})
    assert long.problems(asked(long)) == [
        "evals: max_tokens=96 leaves no room in architecture.context=96; lower it"
    ]
