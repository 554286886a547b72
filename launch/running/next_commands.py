"""What a person may type after a run: its text, its curves, and the same job on text of one's own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_pipeline.component import imported_by_user
from launch.job.load import Job, dump
from launch.process.children import typed_command


def next_commands(job: Job, run_dir: Path) -> list[tuple[str, str]]:
    """(command, purpose): generate and tensorboard if a model was trained, and the job with another folder of
    books if it reads books.
    """
    # As plain values: the classes of phases may import jax, which a data job does without.
    phases = dump(job.phases)
    runs = [phase for phase in phases.values() if phase["type"] == "Run"]
    # What a configuration needs is also needed to read a checkpoint of it.
    imports = [word for module in imported_by_user for word in ("--import", module)]
    commands = []
    if runs:
        # The last phase that trains is the one that `generate` takes by default.
        generate = ["generate", run_dir, *_prompt(runs[-1]), *imports]
        commands.append((typed_command(generate), "an answer to your prompt"))
        commands.append((typed_command(["tensorboard", run_dir]), "the curves of every phase"))
    # A user's own phase may have a field `sources` that means something else.
    prepared = {name: phase for name, phase in phases.items() if phase["type"] == "Prepare"}
    for name, phase in prepared.items():
        for source, reader in phase["sources"].items():
            if reader["type"] == "Books":
                setting = ["--set", f"{name}.sources.{source}.folder=FOLDER"]
                run = ["run", job.config, "--dir", "runs/mine", *setting, *imports]
                commands.append((typed_command(run), "with your .txt and .epub files"))
    return commands


def _prompt(run: Mapping[str, Any]) -> list[str]:
    """The options of `generate` for the first prompt whose text the phase shows."""
    samples = [each for each in run["evals"] if each["type"] == "Samples"]
    if not samples:
        return ["--prompt", "TEXT"]
    return [*(["--chat"] if samples[0]["chat"] else []), "--prompt", samples[0]["prompts"][0]]
