"""Rules that the sizes of every architecture keep."""

from typing import Any


def check_heads(sizes: Any) -> None:
    """Query heads in equal groups, and pairs to turn.

    Raises:
        ValueError: a rule is broken.
    """
    if sizes.heads % sizes.kv_heads:
        raise ValueError(f"heads={sizes.heads} is not a multiple of kv_heads={sizes.kv_heads}; choose equal groups")
    if sizes.head_width % 2:
        raise ValueError(f"head_width={sizes.head_width} is odd; rotary positions turn pairs, choose an even width")
