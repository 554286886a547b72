"""Which parameters a phase trains."""

from typing import Protocol, runtime_checkable

from jaxtyping import Array, Key
from pydantic import BaseModel

from model.api import Params


@runtime_checkable
class Adaptation(Protocol):
    """Divides parameters into what the optimizer sees and what stays as it is."""

    def split(self, params: Params, key: Key[Array, ""]) -> tuple[Params, Params]:
        """(trainable, frozen)."""
        ...

    def merge(self, trainable: Params, frozen: Params) -> Params:
        """The parameters that the model reads."""
        ...


class Full(BaseModel, frozen=True, extra="forbid", strict=True):
    """All parameters are trained."""

    def split(self, params: Params, key: Key[Array, ""]) -> tuple[Params, Params]:
        """Everything, and nothing."""
        return params, {}

    def merge(self, trainable: Params, frozen: Params) -> Params:
        """The trainable ones."""
        return trainable
