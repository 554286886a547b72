"""Control pieces: what structures a token stream. They stand for no text, and no text can produce their
ids.
"""

ROLES = ("system", "user", "assistant")
CHAT_PIECES = (*(f"<|{role}|>" for role in ROLES), "<|end|>")
FIM_PARTS = ("prefix", "suffix", "middle")
FIM_PIECES = tuple(f"<|fim_{part}|>" for part in FIM_PARTS)  # Bavarian et al. 2022
TOOL_PIECES = ("<|tool|>", "<|tool_call|>")  # what a tool gave back; a call inside an answer
CONTROL_PIECES = (*CHAT_PIECES, *FIM_PIECES, *TOOL_PIECES)

# How other models spell the three: prefix, suffix, middle (Code Llama's come as one piece with a space).
FIM_SPELLINGS = (
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),
    ("<PRE>", "<SUF>", "<MID>"),
    ("[PREFIX]", "[SUFFIX]", "[MIDDLE]"),
)

SPACE = "▁"  # U+2581, how SentencePiece writes a space; the same letter in a text must be told apart from it
SPACE_BYTES = tuple(f"<0x{byte:02X}>" for byte in SPACE.encode())
