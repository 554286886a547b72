"""The verb `generate`: which checkpoint a path means, and what is printed."""

import io
import json
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from data_pipeline.chat.message import text_message
from data_pipeline.chat.roles import Roles
from data_pipeline.tokenizers.tokenizer import SentencePiece, Tokenizer
from inference.decode import generate
from inference.sample import Greedy, Sampler
from inference.text import pieces, writer
from launch.__main__ import main
from launch.running.find import find_phase
from launch.verbs.generate import load, sampler_of
from model.adapt import Full
from model.architectures.llama import Llama
from model.execution import Precision
from model.mesh import make_mesh
from tests.launch.command import meshwright
from trainer.checkpoints.checkpointer import Checkpointer, Checkpoints
from trainer.checkpoints.load import load_params
from trainer.optimizer import Optimizer
from trainer.optimizers.adamw import AdamW
from trainer.schedules import WarmupCosine
from trainer.state import new_state

SIZES = Llama(
    vocab_size=280,
    width=16,
    layers=2,
    heads=2,
    kv_heads=1,
    head_width=8,
    feed_forward_width=24,
    context=32,
)
TX = Optimizer(
    rule=AdamW(),
    peak_lr=1e-3,
    schedule=WarmupCosine(warmup_steps=1, end_frac=0.1),
    weight_decay=0.0,
).chain(10)
SAVED = {
    "architecture": {"type": "Llama", **SIZES.model_dump(mode="json")},
    "adaptation": {"type": "Full"},
    "precision": Precision().model_dump(mode="json"),
    "tokenizer": "data/tokenizer.model",
}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    """A run with a checkpoint of pretrain and two of sft, of other weights."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    SentencePiece(vocab_size=277, model="bpe").train(
        ["hello there"] * 9, folder / "data" / "tokenizer.model"
    )
    with jax.set_mesh(make_mesh(jax.devices()[:1])):
        birth = jax.jit(partial(new_state, SIZES.build(Precision()), Full(), TX))
        for number, (phase, steps) in enumerate({"pretrain": (5,), "sft": (5, 9)}.items()):
            state = birth(jax.random.key(number))
            checkpointer = Checkpointer(folder / phase, Checkpoints(every_steps=4))
            for step in steps:
                checkpointer.save(state._replace(step=state.step + step), {}, SAVED)
                checkpointer.wait()
            checkpointer.close()
            (folder / phase / "done.json").write_text("{}")
    return folder


def text_of(folder: Path, prompt: str, **options) -> str:
    settings = {"sampler": Greedy(), "max_tokens": 12, "as_chat": False, "key": jax.random.key(0)}
    with jax.set_mesh(make_mesh(jax.devices()[:1])):
        return "".join(writer(load(folder, None), **{**settings, **options})(0, prompt))


def test_a_run_means_its_newest_finished_phase_and_a_phase_its_newest_step(run_dir):
    assert find_phase(run_dir, None) == (run_dir / "sft", None)
    assert find_phase(run_dir / "pretrain", 5) == (run_dir / "pretrain", 5)
    assert find_phase(run_dir / "pretrain" / "checkpoints" / "5", None) == (run_dir / "pretrain", 5)
    with jax.set_mesh(make_mesh(jax.devices()[:1])):
        assert load_params(run_dir / "sft").step == 9


def test_an_unfinished_phase_must_be_named(run_dir, tmp_path):
    (tmp_path / "pretrain" / "checkpoints").mkdir(parents=True)
    with pytest.raises(ValueError, match="no finished phase.*name an unfinished one: .*pretrain"):
        find_phase(tmp_path, None)
    assert find_phase(tmp_path / "pretrain", None) == (tmp_path / "pretrain", None)


def test_what_cannot_be_found_is_said_so(run_dir, tmp_path):
    with pytest.raises(ValueError, match="absent: no such folder"):
        find_phase(tmp_path / "absent", None)
    with pytest.raises(ValueError, match="holds no finished phase"):
        find_phase(tmp_path, None)
    with pytest.raises(ValueError, match="--step 9 contradicts"):
        find_phase(run_dir / "sft" / "checkpoints" / "5", 9)


@pytest.mark.parametrize("chat", [False, True])
def test_the_pieces_join_to_the_text_of_the_generated_tokens(run_dir, chat):
    with jax.set_mesh(make_mesh(jax.devices()[:1])):
        loaded = load_params(run_dir / "sft")
        t = Tokenizer(loaded.tokenizer)
        asked = Roles(t).prompt([text_message("user", "hello")])
        ids = asked if chat else [t.bos, *t.encode("hello")]
        allowed_V = np.pad(t.byte_lengths > 0, (0, 3))
        allowed_V[[t.eos, t.end_of_turn]] = True
        options = {
            "context": 32,
            "max_tokens": 12,
            "stop_ids": (t.eos, t.end_of_turn),
            "key": jax.random.key(3),
            "allowed_V": allowed_V,
        }
        model = loaded.architecture.build(Precision(compute="float32"))
        (new,) = generate(model, loaded.params, [ids], sampler=Greedy(), **options)
    # the beginning of a character at the end is no text
    shown = text_of(run_dir / "sft", "hello", as_chat=chat)
    assert t.decode(new) in (shown, f"{shown}\ufffd")
    assert t.decode(new)


def test_a_text_depends_on_phase_seed_and_place_in_the_list_only(run_dir):
    sampler = Sampler(temperature=3.0)
    first = text_of(run_dir / "sft", "hello", sampler=sampler)
    assert text_of(run_dir / "sft", "hello", sampler=sampler) == first
    assert text_of(run_dir / "sft", "hello", sampler=sampler, key=jax.random.key(1)) != first
    assert text_of(run_dir / "pretrain", "hello", sampler=sampler) != first


def test_a_letter_is_not_shown_before_all_its_bytes_are_there(run_dir):
    t = Tokenizer(run_dir / "data" / "tokenizer.model")
    ids = t.encode("aß→𝄞b")
    assert len(ids) > 5
    shown = list(pieces(([i] for i in ids), t))
    assert "".join(shown) == "aß→𝄞b"
    assert not any("\ufffd" in piece for piece in shown)
    assert "".join(pieces(([i] for i in ids[:-2]), t)) == "aß→"


@pytest.mark.parametrize(
    "text", ["\ufffd\ufffd end", "end \ufffd", "👩\u200d🚀 中文 é", "한글\ufffd🦊\ufffd"]
)
@pytest.mark.parametrize("n", [1, 2, 3, 99])
def test_pieces_are_the_text_however_its_tokens_come(run_dir, text, n):
    t = Tokenizer(run_dir / "data" / "tokenizer.model")
    ids = t.encode(text)
    assert "".join(pieces((ids[i : i + n] for i in range(0, len(ids), n)), t)) == text
    # and a cut one is what it begins with, whole letters alone
    for end in range(len(ids)):
        begun = "".join(pieces(([i] for i in ids[:end]), t))
        assert text.startswith(begun) and len(begun.encode()) > t.byte_lengths[ids[:end]].sum() - 4


def test_options_choose_the_sampler():
    assert sampler_of(0.0, None, None) == Greedy()
    assert sampler_of(0.7, 40, 0.9) == Sampler(temperature=0.7, top_k=40, top_p=0.9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((0.0, 5, None), "--temperature 0 samples none"),
        ((-1.0, None, None), "--temperature -1.0: must be a finite number above 0"),
        (
            (1.0, 0, 2.0),
            "--top-k 0: must be at least 1.*; --top-p 2.0: must be above 0 and at most 1",
        ),
    ],
)
def test_wrong_options_are_refused_together(options, message):
    with pytest.raises(ValueError, match=message):
        sampler_of(*options)


def test_the_command_prints_prompt_and_text(run_dir, tmp_path):
    done = meshwright(
        "generate",
        str(run_dir),
        "--prompt",
        "hello",
        "--prompt",
        "there",
        "--max-tokens",
        "12",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    expected = [prompt + text_of(run_dir / "sft", prompt) for prompt in ("hello", "there")]
    assert done.stdout == "\n\n".join(expected) + "\n"


def test_a_program_reads_an_object_a_prompt(run_dir, capsys):
    prompts = ("hello", "there")
    words = [word for prompt in prompts for word in ("--prompt", prompt)]
    assert main(["generate", str(run_dir), *words, "--max-tokens", "12", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows == [
        {"prompt": prompt, "text": text_of(run_dir / "sft", prompt)} for prompt in prompts
    ]


def test_a_prompt_that_is_no_text_is_a_sentence(run_dir, capsys, monkeypatch):
    for words, stdin in ((["--prompt", "a\udcff"], b""), ([], b"hello\r\n\xff\n")):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="ascii"))
        assert main(["generate", str(run_dir), "--max-tokens", "1", "--json", *words]) == 2
        out, error = capsys.readouterr()
        assert "of the prompt" in error and "not UTF-8; give the text in UTF-8" in error
        assert [json.loads(line)["prompt"] for line in out.splitlines()] == ["hello"][: not words]


def test_a_prompt_that_leaves_no_room_is_a_users_error(run_dir, tmp_path):
    done = meshwright("generate", str(run_dir), "--prompt", "z" * 40, cwd=tmp_path)
    assert done.returncode == 2
    assert "leaves no room" in done.stderr
    assert "Traceback" not in done.stderr
