"""The contract of architectures: how to build a model, its facts, and its Hugging Face format."""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from model.api import Model
from model.execution import DEFAULT, Execution, Precision
from model.hugging_face.tensor import Tensor


class AttentionFacts(NamedTuple):
    """Heads and widths of one layer's attention.

    Attributes:
        heads: Query heads.
        kv_heads: Heads of keys and values in training; each serves `heads / kv_heads` query heads.
        qk_width: Entries of a query, and of a key, in a score.
        v_width: Entries of a value.
        window: How many positions, itself included, a position sees; None = all before it.
    """

    heads: int
    kv_heads: int
    qk_width: int
    v_width: int
    window: int | None


class ExpertFacts(NamedTuple):
    """A token is processed by `top_k` of the `experts` of a feed-forward layer; a dense layer is (1, 1)."""

    experts: int = 1
    top_k: int = 1


class LayerFacts(NamedTuple):
    """One block: its attention and its feed-forward layer."""

    attention: AttentionFacts
    experts: ExpertFacts


class Facts(NamedTuple):
    """What sizes, FLOPs and memory are computed from; collected from the decoder's own layers.

    Attributes:
        vocab_size: Entries of the vocabulary without padding; parameters hold `padded(vocab_size)`.
        width: D, of the residual stream.
        layers: One entry for each block, in the order of the model; those of prediction modules come last.
        mtp_layers: How many of `layers` predict beyond the next token; each multiplies by the output matrix
            once more.
    """

    vocab_size: int
    width: int
    layers: tuple[LayerFacts, ...]
    mtp_layers: int

    @property
    def experts(self) -> ExpertFacts:
        """Those of the layers with the most experts, so not of the dense ones."""
        # named tuples compare by their first field, the number of experts
        return max(layer.experts for layer in self.layers)


@runtime_checkable
class Importable(Protocol):
    """A class of architectures that can be read from a Hugging Face config.json."""

    hugging_face_types: ClassVar[tuple[str, ...]]  # the values of `model_type` that it can read

    @classmethod
    def from_hugging_face(cls, config: Mapping[str, Any]) -> "Architecture":
        """The architecture that a config.json describes.

        Raises:
            ValueError: a size is missing, or a field asks for a computation that ours does not do.
        """
        ...


@runtime_checkable
class Exportable(Protocol):
    """An architecture that can be written in the form that it has at Hugging Face."""

    def to_hugging_face(self) -> dict[str, Any]:
        """config.json for transformers 4 and 5.

        Raises:
            ValueError: no model of transformers computes the same.
        """
        ...

    def tensors(self) -> tuple[Tensor, ...]:
        """Name and layout of every parameter in a Hugging Face checkpoint."""
        ...


@runtime_checkable
class Architecture(Importable, Exportable, Protocol):
    """A frozen component whose fields are the sizes, in one file of model/architectures/."""

    vocab_size: int
    width: int
    context: int  # longest sequence in tokens

    def build(self, precision: Precision, execution: Execution = DEFAULT) -> Model:
        """The functions that train and decode this architecture in these dtypes."""
        ...

    def facts(self) -> Facts:
        """Heads, widths, windows and experts of every layer; needs no mesh and no device."""
        ...
