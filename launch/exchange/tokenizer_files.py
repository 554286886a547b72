"""Tokenizers of foreign checkpoints → ours, and ours → the files that transformers reads."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import sentencepiece

from data_pipeline.files import write_bytes
from data_pipeline.temporary import temporary_folder
from data_pipeline.tokenizers.chat_files import read_settings
from data_pipeline.tokenizers.control import SPACE
from data_pipeline.tokenizers.hugging_face import HuggingFaceTokenizer
from data_pipeline.tokenizers.sentence_model import tokenizer_json
from data_pipeline.tokenizers.tokenizer import Tokenizer
from data_pipeline.tokenizers.tokenizer_json import Unusable, added_pieces, read_tokenizer_json
from model.hugging_face.checkpoint import Checkpoint, read_json

# Pieces that end a chat turn (Phi, ChatML as in Qwen, Llama 3, Gemma …). The first of them that a
# tokenizer has is used.
ENDS_OF_TURN = ("<|end|>", "<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|endofturn|>")
CONTROL, USER_DEFINED = 3, 4  # token types in a GGUF file (llama.cpp's llama_token_type)
# A Jinja template, as transformers' apply_chat_template reads it from tokenizer_config.json.
OUR_CHAT = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
# GPT-2 splits text into words by a regex, then maps bytes to letters; BYTES_ONLY does the mapping alone.
BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}
BYTES_ONLY = {**BYTE_LEVEL, "use_regex": False}
# How Llama 3 and Qwen 2 split text before BPE; they differ in how many digits stay together (%s).
LETTERS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _split(digits: str) -> dict[str, Any]:
    split = {
        "type": "Split",
        "pattern": {"Regex": LETTERS % digits},
        "behavior": "Isolated",
        "invert": False,
    }
    return {"type": "Sequence", "pretokenizers": [split, BYTES_ONLY]}


# An added token matches exactly as it is written, anywhere in a text.
TAKEN_LITERALLY = {"normalized": False, "lstrip": False, "rstrip": False, "single_word": False}
PRE_TOKENIZERS = {  # by the field tokenizer.ggml.pre of a GGUF file
    "gpt-2": BYTE_LEVEL,
    "default": BYTE_LEVEL,
    "smollm": {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL],
    },
    "llama-bpe": _split(r"\p{N}{1,3}"),
    "qwen2": _split(r"\p{N}"),
}


def imported(checkpoint: Checkpoint, metadata: Mapping[str, Any] | None, path: Path) -> str:
    """Write the tokenizer of a checkpoint to `path` in our form; returns a line that says what was done.

    A tokenizer that does not reproduce text exactly is left out, and the line says why; the weights are
    useful without it.

    Raises:
        ValueError: its files are damaged.
    """
    try:
        return _from_folder(checkpoint, path) if metadata is None else _from_gguf(metadata, path)
    except Unusable as error:
        return f"  no tokenizer: {error}"
    except ValueError as error:
        # Not left out silently: a line among others would be overlooked.
        instead = ", or remove it to import the weights alone" if metadata is None else ""
        raise ValueError(f"{error}{instead}") from error


def _from_folder(checkpoint: Checkpoint, path: Path) -> str:
    folder = checkpoint.path

    # Our own tokenizers are SentencePiece models too. One that changes text (by NFKC, for
    # example) is refused, but tokenizer.json may still do.
    if (folder / "tokenizer.model").exists() and not _refused(folder / "tokenizer.model"):
        write_bytes(path, (folder / "tokenizer.model").read_bytes())
        return "  tokenizer.model taken as it is"
    if not (folder / "tokenizer.json").exists():
        return f"  no tokenizer: {folder} has no tokenizer.json"
    settings = read_settings(folder)
    file = folder / "tokenizer.json"
    tokens = added_pieces(read_tokenizer_json(file, "download it again"), str(file))
    # What stops generation may stand here, and in some models more of it than in config.json.
    config = folder / "generation_config.json"
    generation = read_json(config) if config.exists() else {}
    # By id, because config.json gives special tokens by number.
    added = {token.id: token.content for token in tokens}
    named = {
        name: _piece(
            name, settings.pieces, {**generation, **_without_null(checkpoint.config)}, added
        )
        for name in ("bos", "eos", "pad")
    }
    stop_ids = _ids(checkpoint.config, folder / "config.json") + _ids(generation, config)
    return _write(file, path, named, set(added.values()), {"stop_ids": stop_ids})


def _without_null(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if value is not None}


def _ids(config: Mapping[str, Any], file: Path) -> list[int]:
    """All ids that end a text according to the config in `file`: it has one, a list, or none."""
    ids = config.get("eos_token_id")
    ids = ids if isinstance(ids, list) else [] if ids is None else [ids]
    if wrong := [i for i in ids if type(i) is not int]:
        raise ValueError(f"{file} has eos_token_id={wrong[0]!r:.40}, which is no id; correct it")
    return ids


def _refused(path: Path) -> bool:
    try:
        Tokenizer(path)
    except ValueError:
        return True
    return False


def _piece(
    name: str, settings: Mapping[str, str], config: Mapping[str, Any], added: Mapping[int, str]
) -> str | None:
    """The piece `bos`, `eos` or `pad`: its text in tokenizer_config.json, or by its id in config.json."""
    piece = settings.get(f"{name}_token")
    if piece is not None:
        return piece
    i = config.get(f"{name}_token_id")
    # Some models list several ends; the first is the end of a text.
    first = next(iter(i), None) if isinstance(i, list) else i
    return added.get(first) if isinstance(first, int) else None


def _from_gguf(metadata: Mapping[str, Any], path: Path) -> str:
    get = {
        name.removeprefix("tokenizer.ggml."): value
        for name, value in metadata.items()
        if name.startswith("tokenizer.ggml.")
    }.get
    # "gpt2" means byte-level BPE; `pre` names how text is split before that.
    kind = (get("model"), get("pre", "default"))
    if kind not in [("gpt2", pre) for pre in PRE_TOKENIZERS]:
        what = f"the file has one of kind {kind[0]!r:.40}, {kind[1]!r:.40}"
        raise Unusable(f"{what}, which is not read; take safetensors with a tokenizer.json")
    tokens = _list_in(metadata, "tokens", str)
    kinds = _list_in(metadata, "token_type", int)
    merges = _list_in(metadata, "merges", str)
    if len(tokens) != len(kinds):
        what = f"the file has {len(tokens)} tokens and {len(kinds)} types of tokens"
        raise ValueError(f"{what}; download it again, or take safetensors")
    ids = {
        name: _gguf_id(get, f"{field}_token_id", len(tokens))
        for name, field in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))
    }
    named = {name: None if i is None else tokens[i] for name, i in ids.items()}
    file = _byte_level_file(tokens, kinds, merges, kind[1])
    # llama.cpp's default where the file does not say
    if named["bos"] and get("add_bos_token", kind[1] == "llama-bpe"):
        file["post_processor"] = _bos_first(named["bos"], ids["bos"])
    # Llama 3 and others end a turn, and a call of a tool, with pieces of their own
    others = (_gguf_id(get, f"{field}_token_id", len(tokens)) for field in ("eot", "eom"))
    stop_ids = [i for i in (ids["eos"], *others) if i is not None]
    with temporary_folder() as folder:
        tokenizer_file = folder / "tokenizer.json"
        tokenizer_file.write_text(json.dumps(file), encoding="utf-8")
        special = {token["content"] for token in file["added_tokens"] if token["special"]}
        pieces = {f"{name}_token": piece for name, piece in named.items() if piece is not None}
        further = {**_gguf_chat(metadata, pieces), "stop_ids": stop_ids}
        return _write(tokenizer_file, path, named, special, further)


def _gguf_chat(metadata: Mapping[str, Any], pieces: Mapping[str, str]) -> dict[str, Any]:
    template = metadata.get("tokenizer.chat_template") or ""
    if not isinstance(template, str):
        what = f"the file's tokenizer.chat_template={template!r:.40} must be a text"
        raise ValueError(f"{what}; download it again, or take safetensors")
    return {"chat_template": template, "chat_pieces": pieces} if template else {}


def _gguf_id(get: Callable[[str], Any], field: str, n_tokens: int) -> int | None:
    i = get(field)
    if i is None or (type(i) is int and 0 <= i < n_tokens):
        return i
    what = f"the file's {field}={i!r:.40} is none of its {n_tokens} tokens"
    raise ValueError(f"{what}; download it again, or take safetensors")


def _list_in(metadata: Mapping[str, Any], name: str, kind: type) -> list[Any]:
    field = f"tokenizer.ggml.{name}"
    value = metadata.get(field)
    if not isinstance(value, list) or not all(type(item) is kind for item in value):
        raise ValueError(f"the file has no list {field} of {kind.__name__}; take safetensors")
    return value


def _byte_level_file(
    tokens: Sequence[str], kinds: Sequence[int], merges: Sequence[str], pre: str
) -> dict[str, Any]:
    """A tokenizer.json of the byte-level BPE in a GGUF file; `pre` names how text is split before it."""
    added = [
        {"id": i, "content": token, "special": kind == CONTROL, **TAKEN_LITERALLY}
        for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in (CONTROL, USER_DEFINED)
    ]
    model = {
        "type": "BPE",
        "vocab": {token: i for i, token in enumerate(tokens)},
        # GGUF has a merge as one string, tokenizer.json (since tokenizers 0.20) as a pair.
        "merges": [merge.split(" ") for merge in merges],
        # Llama 3 takes a word that is in the vocabulary as it is, whatever its merges make of it
        "ignore_merges": pre == "llama-bpe",
    }
    return {
        "version": "1.0",
        "added_tokens": added,
        # A GGUF file names no normalizer; Qwen's tokenizer.json has NFC.
        "normalizer": {"type": "NFC"} if pre == "qwen2" else None,
        "pre_tokenizer": PRE_TOKENIZERS[pre],
        "model": model,
        "decoder": BYTE_LEVEL,
    }


def _bos_first(bos: str, i: int) -> dict[str, Any]:
    """The post-processor of a tokenizer.json that puts bos in front of a text."""
    text = {"Sequence": {"id": "A", "type_id": 0}}
    opened = [{"SpecialToken": {"id": bos, "type_id": 0}}, text]
    return {
        "type": "TemplateProcessing",
        "single": opened,
        "pair": [*opened, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {bos: {"id": bos, "ids": [i], "tokens": [bos]}},
    }


def _write(
    file: Path,
    path: Path,
    named: Mapping[str, str | None],
    special: set[str],
    further: Mapping[str, Any],
) -> str:
    """Write a tokenizer.json to `path` in our form, with its special pieces, the chat template that lies
    beside it, and `further` fields.
    """
    if named["eos"] is None:
        what = f"nothing says which piece of {file} ends a text"
        return f"  no tokenizer: {what}; add eos_token to tokenizer_config.json"

    # A chat model ends a turn with another piece than a text; without it generation would go on
    # past the answer.
    end = next((piece for piece in ENDS_OF_TURN if piece in special), named["eos"])
    tokenizer = HuggingFaceTokenizer(
        path=str(file),
        # Models without <bos> (Qwen) start a text with the piece that ended the one before.
        bos=named["bos"] or named["eos"],
        eos=named["eos"],
        pad=named["pad"],
        control={"<|end|>": end},
    )
    tokenizer.make({}, path, weights={})
    spec = {**json.loads(path.read_bytes()), **further}
    write_bytes(path, json.dumps(spec).encode())
    n_entries = len(Tokenizer(path).byte_lengths)

    has_template = bool(spec.get("chat_template"))
    return f"  tokenizer of {n_entries:,} entries" + (
        ", with its chat template" if has_template else ""
    )


def token_ids(tokenizer: Tokenizer) -> dict[str, int | list[int]]:
    """The ids that config.json and generation_config.json hold, so that others stop where we stop."""
    first, *further = tokenizer.stop_ids
    ends = [first, *further] if further else first
    return {"bos_token_id": tokenizer.bos, "eos_token_id": ends, "pad_token_id": tokenizer.pad}


def exported(path: Path) -> dict[str, bytes]:
    """File name → contents, of the tokenizer of a phase for transformers: tokenizer.json and its settings,
    and a SentencePiece model.
    """
    data = path.read_bytes()
    # JSON begins with a brace; a SentencePiece model is protobuf, which never does.
    if data.startswith(b"{"):
        spec = json.loads(data)
        # Of a model without bos, ours is another piece, which its template must not write.
        pieces = spec.get("chat_pieces") or {"bos_token": spec["bos"], "eos_token": spec["eos"]}
        template = spec.get("chat_template") or ""
        # The piece that fills our rows, so that it agrees with the id in config.json; a template that writes
        # the file's own keeps that.
        pad = pieces.get("pad_token") if "pad_token" in template else spec["pad"]
        pieces = {"eos_token": spec["eos"], **pieces, "pad_token": pad or spec["pad"]}
        return _files(spec["tokenizer"], pieces, template)
    model = sentencepiece.SentencePieceProcessor(model_proto=data)
    ids = {"bos_token": model.bos_id(), "eos_token": model.eos_id(), "pad_token": model.pad_id()}
    pieces = {name: model.id_to_piece(i) for name, i in ids.items()}
    file = _with_control_pieces(tokenizer_json(model), model)
    return {"tokenizer.model": data, **_files(file, pieces, OUR_CHAT)}


def _with_control_pieces(file: dict[str, Any], model: Any) -> dict[str, Any]:
    """A tokenizer.json with the control pieces of our SentencePiece as special tokens, and its decoder."""
    pieces = {model.id_to_piece(i): i for i in range(model.vocab_size()) if model.is_control(i)}
    flags = {"special": True, **TAKEN_LITERALLY}
    decoders = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        # Pieces like <0x41> are bytes of characters outside the vocabulary. Fuse joins all to one
        # string.
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    vocab = file["model"]["vocab"]
    return {
        **file,
        "added_tokens": [{"id": i, "content": piece, **flags} for piece, i in pieces.items()],
        # a unigram model's is a list by id, in which they have their places already
        "model": {**file["model"], "vocab": vocab if isinstance(vocab, list) else vocab | pieces},
        # as our models read every text
        "post_processor": _bos_first(model.id_to_piece(model.bos_id()), model.bos_id()),
        "decoder": {"type": "Sequence", "decoders": decoders},
    }


def _files(
    file: Mapping[str, Any], pieces: Mapping[str, str], template: str | None
) -> dict[str, bytes]:
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **pieces}
    # Its default would drop spaces before punctuation.
    settings["clean_up_tokenization_spaces"] = False
    if template:
        settings["chat_template"] = template
    return {
        "tokenizer.json": json.dumps(file, ensure_ascii=False).encode(),
        "tokenizer_config.json": json.dumps(settings, indent=2).encode(),
    }
