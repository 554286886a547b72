"""The input and the result of evaluations."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from jax.sharding import Mesh

from data_pipeline.tokenizers.tokenizer import Tokenizer
from model.api import Model, Params
from trainer.following import no_progress
from trainer.objective import Objective, Policies


class Subject(NamedTuple):
    """What evaluations are opened with: models, objective, mesh, folders and tokenizer of a phase."""

    models: dict[str, Model]  # by role
    policies: Callable[
        [Params], Policies
    ]  # parameters of the policy -> (model, parameters) by role
    objective: Objective
    mesh: Mesh
    folder: Path  # of the phase
    resumed: bool  # whether the phase resumes from a checkpoint
    job_folder: Path
    tokenizer: Tokenizer
    context: int
    first_policy_digest: str = ""  # of the settings that the first policy depends on
    say: Callable[[str], None] = print  # a line for the user
    progress: Callable[..., Any] = no_progress  # follows what takes long

    @property
    def model(self) -> Model:
        """The policy's model, the one that is evaluated."""
        return self.models["policy"]


class Findings(NamedTuple):
    """Numbers by name (`web/loss`), and texts as {"prompt", "text"}."""

    numbers: dict[str, float]
    texts: list[dict[str, str]]
