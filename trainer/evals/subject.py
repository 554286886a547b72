"""Who is evaluated, and what an evaluation gives."""

from pathlib import Path
from typing import NamedTuple

from jax.sharding import Mesh

from data_pipeline.tokenizers.tokenizer import Tokenizer
from model.api import Model
from trainer.objective import Objective


class Subject(NamedTuple):
    """A model with its objective, where it lies and where its files are."""

    model: Model
    objective: Objective
    mesh: Mesh
    folder: Path  # of the phase
    resumed: bool  # from a checkpoint in it
    job_folder: Path
    tokenizer: Tokenizer
    context: int


class Findings(NamedTuple):
    """Numbers by name (`web/loss`), and texts as {"prompt", "text"}."""

    numbers: dict[str, float]
    texts: list[dict[str, str]]
