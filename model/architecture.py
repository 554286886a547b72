"""What the rest of the house knows of an architecture: how to build it, its facts, and its form at Hugging
Face.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from model.api import Model
from model.execution import DEFAULT, Execution, Precision
from model.hugging_face.tensor import Tensor


class AttentionFacts(NamedTuple):
    """What attention of one layer computes with.

    Attributes:
        heads: Query heads.
        kv_heads: Heads whose keys and values training makes; each serves `heads / kv_heads` query heads.
        qk_width: Entries of a query, and of a key, that meet in a score.
        v_width: Entries of a value.
        window: How many positions back, itself counted, a position sees; None: all.
    """

    heads: int
    kv_heads: int
    qk_width: int
    v_width: int
    window: int | None


class ExpertFacts(NamedTuple):
    """A token passes `top_k` of the `experts` of a feed-forward layer; a layer without a router is one
    expert.
    """

    experts: int = 1
    top_k: int = 1


class LayerFacts(NamedTuple):
    """One block: its attention and its feed-forward layer."""

    attention: AttentionFacts
    experts: ExpertFacts


class Facts(NamedTuple):
    """What sizes, FLOPs and memory are computed from; read off the decoder's own layers.

    Attributes:
        vocab_size: True entries of the vocabulary; parameters hold `padded(vocab_size)`.
        width: D of the residual stream.
        layers: One entry a block in the order of the model; those of prediction modules come last.
        mtp_layers: How many of `layers` predict beyond the next token; each meets the output matrix once
            more.
    """

    vocab_size: int
    width: int
    layers: tuple[LayerFacts, ...]
    mtp_layers: int

    @property
    def experts(self) -> ExpertFacts:
        """Those of the layers with the most experts; where some layers are dense, of the others."""
        # named tuples compare by their first field, the number of experts; (1, 1) is a dense layer
        return max(layer.experts for layer in self.layers)


@runtime_checkable
class Importable(Protocol):
    """A class of architectures that can be read from a Hugging Face config.json."""

    hugging_face_types: ClassVar[tuple[str, ...]]  # values of `model_type` that it reads

    @classmethod
    def from_hugging_face(cls, config: Mapping[str, Any]) -> "Architecture":
        """The architecture that a config.json describes.

        Raises:
            ValueError: a size is missing, or a field asks for what we would compute differently.
        """
        ...


@runtime_checkable
class Architecture(Importable, Protocol):
    """A frozen component of sizes, in one file of model/architectures/; all other members follow from
    them.
    """

    vocab_size: int
    width: int
    context: int  # longest sequence in tokens

    def build(self, precision: Precision, execution: Execution = DEFAULT) -> Model:
        """The functions that train and decode this architecture, at these dtypes."""
        ...

    def facts(self) -> Facts:
        """Heads, widths, windows and experts of every layer; needs no mesh and no device."""
        ...

    def to_hugging_face(self) -> dict[str, Any]:
        """config.json for transformers 4 and 5.

        Raises:
            ValueError: transformers has no model that computes the same.
        """
        ...

    def tensors(self) -> tuple[Tensor, ...]:
        """Name and layout in a Hugging Face checkpoint of every parameter."""
        ...


def check_heads(*, heads: int, kv_heads: int, head_width: int) -> None:
    """Query heads come in equal groups, and rotary positions turn pairs.

    Raises:
        ValueError: a rule is broken.
    """
    if heads % kv_heads:
        raise ValueError(
            f"heads={heads} is not a multiple of kv_heads={kv_heads}; choose equal groups"
        )
    if head_width % 2:
        raise ValueError(
            f"head_width={head_width} is odd; rotary positions turn pairs, choose an even width"
        )
