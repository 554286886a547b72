"""Who is evaluated, and what an evaluation gives."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from jax.sharding import Mesh

from data_pipeline.tokenizers.tokenizer import Tokenizer
from model.api import Model, Params
from trainer.objective import Objective, Policies


class Subject(NamedTuple):
    """A model with its objective, where it lies and where its files are."""

    models: dict[str, Model]  # by role
    policies: Callable[[Params], Policies]  # of all roles, with these parameters of the policy
    objective: Objective
    mesh: Mesh
    folder: Path  # of the phase
    resumed: bool  # from a checkpoint in it
    job_folder: Path
    tokenizer: Tokenizer
    context: int

    @property
    def model(self) -> Model:
        """The policy's model, the one that is evaluated."""
        return self.models["policy"]


class Findings(NamedTuple):
    """Numbers by name (`web/loss`), and texts as {"prompt", "text"}."""

    numbers: dict[str, float]
    texts: list[dict[str, str]]
