"""A foreign checkpoint → the folder of a phase, for the verb `import`."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from pydantic import ValidationError

from data_pipeline.component import components_in
from data_pipeline.files import sha256, write_json, writing
from data_pipeline.tokenizers.tokenizer import Tokenizer
from launch.exchange.tokenizer_files import imported
from model.api import Params
from model.architecture import Architecture, Importable
from model.execution import Precision
from model.hugging_face.checkpoint import Checkpoint, open_folder
from model.hugging_face.deepseek import without_missing_modules
from model.hugging_face.gguf import open_gguf
from model.hugging_face.load import load, parameter_shapes
from model.hugging_face.tied import without_false_tie
from model.mesh import check_sizes, undivided
from trainer.checkpoints.finished import ending_of
from trainer.checkpoints.imported import save_params


class Source(NamedTuple):
    """A checkpoint to import; `metadata` is that of a GGUF file, None for a folder."""

    checkpoint: Checkpoint
    metadata: dict[str, Any] | None


def open_source(path: Path) -> Source:
    """A folder of Hugging Face, or a .gguf file.

    Raises:
        ValueError: it is neither, or damaged.
    """
    if path.is_dir():
        return Source(open_folder(path), None)
    if path.suffix == ".gguf" and path.is_file():
        # One file with weights, configuration and tokenizer.
        return Source(*open_gguf(path))
    remedy = "give the folder of a Hugging Face checkpoint, or a .gguf file"
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)):
        # What it looks like beside a path: the name of a model on the hub.
        folder = path.name
        remedy = (
            f"download it first, `hf download {path} --local-dir {folder}`, and import {folder}"
        )
    raise ValueError(f"{path}: no folder and no .gguf file; {remedy}")


def architecture_of(config: dict[str, Any]) -> Architecture:
    """The architecture that a config.json describes.

    Raises:
        ValueError: its model_type is none of ours, or a field asks for what we would compute differently.
    """
    # Modules of `--import` are searched too, and may hold other kinds of components.
    families = [
        f for f in components_in("model.architectures").values() if isinstance(f, Importable)
    ]
    # One class may read several model_types.
    known = {name: family for family in families for name in family.hugging_face_types}
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in known:
        importable = ", ".join(sorted(known))
        raise ValueError(
            f"config.json has model_type={kind!r}, and only {importable} can be imported; take one of these"
        )
    try:
        return known[kind].from_hugging_face(config)
    except ValidationError as error:
        # Sizes that contradict each other, such as an odd head width, are found by our own class.
        raise ValueError(_described(known[kind].__name__, error)) from None


def _described(name: str, error: ValidationError) -> str:
    problems = []
    for detail in error.errors():
        fields = "".join(f"{field}={detail['input']!r:.40}: " for field in detail["loc"][-1:])
        # pydantic's word before a sentence of ours
        problems.append(fields + detail["msg"].removeprefix("Value error, "))
    return (
        f"the checkpoint's configuration describes no {name}: {'; '.join(problems)}; "
        "correct it, or download it again"
    )


def architecture_in(checkpoint: Checkpoint, *, say: Callable[[str], None]) -> Architecture:
    """The architecture of a checkpoint, without prediction modules that its config names and it lacks, and
    with an output matrix of its own where it has one.

    `say` reports what that changes.
    """
    named = architecture_of(checkpoint.config)
    # DeepSeek's config.json names prediction layers (MTP) whose tensors some releases leave out.
    config = without_missing_modules(checkpoint.config, checkpoint.shapes())
    # a class of the user's own may have no such field
    if dict(named).get("tied"):
        config = without_false_tie(config, checkpoint)
    architecture = architecture_of(config)
    named_fields = dict(named)
    changes = [f"{name}={value}" for name, value in architecture if value != named_fields[name]]
    if changes:
        say(f"  config.json is not what the tensors are; imported with {', '.join(changes)}")
    return architecture


def import_source(
    source: Source, folder: Path, *, precision: Precision, say: Callable[[str], None]
) -> tuple[Any, Params]:
    """Write a phase folder with checkpoint 0 of a foreign model: (architecture, parameters).

    Call under `jax.set_mesh`. All checks come before the first array is placed on a device.

    Raises:
        ValueError: the model, its tensors, its tokenizer or the mesh do not fit.
    """
    # Importing into a trained phase would put two models into one folder.
    if (folder / "checkpoints").exists():
        raise ValueError(f"{folder} holds checkpoints already; choose another --dir")
    architecture = architecture_in(source.checkpoint, say=say)

    # `undivided`: shapes can be had of any model; whether they divide is checked below.
    with undivided():
        leaves = parameter_shapes(architecture, precision.params)
    shapes = {name: leaf.shape for name, leaf in leaves.items()}
    # Checked before the weights are read, which takes minutes for a large model.
    if problems := check_sizes(shapes, jax.sharding.get_mesh()):
        raise ValueError("; ".join(problems))
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    tokenizer = folder / "tokenizer.model"
    say(imported(source.checkpoint, source.metadata, tokenizer))
    # XLA clamps a token id beyond the embedding silently, so it must be found here.
    _check_vocabulary(tokenizer, architecture)
    params = load(architecture, source.checkpoint, params=precision.params)
    run = {
        "architecture": {
            "type": type(architecture).__name__,
            **architecture.model_dump(mode="json"),
        },
        "adaptation": {"type": "Full"},
        "precision": precision.model_dump(mode="json"),
        # Relative to the run folder, as every path of a configuration is.
        "tokenizer": f"{folder.resolve().name}/{tokenizer.name}",
    }

    # Checkpoint 0: the phase has made no step.
    save_params(folder, params, run)
    origin = {
        "imported": str(source.checkpoint.path.resolve()),
        "model_type": source.checkpoint.config["model_type"],
        **ending_of(folder),
    }
    if tokenizer.exists():
        origin["tokenizer"] = sha256(tokenizer)
    write_json(folder / "done.json", origin)

    return architecture, params


def _check_vocabulary(tokenizer: Path, architecture: Any) -> None:
    """Raises ValueError: the tokenizer has ids that the model has no embedding for; it is removed again."""
    if not tokenizer.exists():
        return
    n = Tokenizer(tokenizer).vocab_size
    # Fewer is fine: many models pad their embedding to a round number of rows.
    if n > architecture.vocab_size:
        tokenizer.unlink()
        sizes = f"the tokenizer has {n} entries and the model {architecture.vocab_size}"
        raise ValueError(f"{sizes}; take the tokenizer that belongs to it")
