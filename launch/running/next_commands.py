"""What a person may type after a run: its text, its curves, and the same job on text of one's own."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launch.job.load import Job, dump


def next_commands(job: Job, run_dir: Path) -> list[tuple[str, str]]:
    """(command, purpose): generate and tensorboard if a model was trained, and the job with another folder of
    books if it reads books.
    """
    # As plain values: the classes of phases may import jax, which a data job does without.
    phases = dump(job.phases)
    runs = [phase for phase in phases.values() if phase["type"] == "Run"]
    commands = []
    if runs:
        commands.append(
            # The last phase that trains is the one that `generate` takes by default.
            (f"meshwright generate {run_dir} {_prompt(runs[-1])}", "an answer to your prompt")
        )
        commands.append((f"meshwright tensorboard {run_dir}", "the curves of every phase"))
    for name, phase in phases.items():
        for source, reader in phase.get("sources", {}).items():
            if reader["type"] == "Books":
                setting = f"--set {name}.sources.{source}.folder=FOLDER"
                command = f"meshwright run {job.config} --dir runs/mine {setting}"
                commands.append((command, "with your .txt and .epub files"))
    return commands


def _prompt(run: Mapping[str, Any]) -> str:
    """The options of `generate` for the first prompt whose text the phase shows."""
    samples = [each for each in run["evals"] if each["type"] == "Samples"]
    if not samples:
        return "--prompt TEXT"
    chat = "--chat " if samples[0]["chat"] else ""
    # Quoted, because a shell would interpret spaces and special characters.
    return f"{chat}--prompt {shlex.quote(samples[0]['prompts'][0])}"
