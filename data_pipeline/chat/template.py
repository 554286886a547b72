"""Prompts for models that bring a chat template of their own (Jinja, as transformers writes them)."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipeline.tokenizers.tokenizer import Tokenizer

# stands for a message's text while the template is rendered; of the private area, so in no template
MARK = "\ue000{}\ue001"


def template_of(path: Path) -> str | None:
    """The chat template that was imported with a tokenizer; None where it has none."""
    data = path.read_bytes()
    return json.loads(data).get("chat_template") if data.startswith(b"{") else None


def template_prompt(template: str, messages: Sequence[Mapping[str, str]], path: Path) -> list[int]:
    """Ids of a conversation, up to where the next answer begins; `path` is the tokenizer that the template
    came with.

    The template's own text may hold control pieces; that of a message is read as plain text, so it can
    forge none.

    Raises:
        ValueError: the template cannot be rendered, or Jinja is not installed.
    """
    tokenizer = Tokenizer(path)
    spec = json.loads(path.read_bytes())
    contents = [message["content"] for message in messages]
    marked = [{**message, "content": MARK.format(i)} for i, message in enumerate(messages)]
    text = _rendered(template, marked, {name: spec[name] for name in ("bos", "eos")})
    import tokenizers

    own = tokenizers.Tokenizer.from_str(json.dumps({**spec["tokenizer"], "post_processor": None}))
    ids: list[int] = []
    while text:
        before, _, rest = text.partition(MARK[0])
        ids += own.encode(before, add_special_tokens=False).ids
        number, _, text = rest.partition(MARK[-1])
        ids += tokenizer.encode(contents[int(number)].strip()) if number else []
    return ids


def _rendered(template: str, messages: list[dict[str, str]], named: Mapping[str, str]) -> str:
    try:
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise ValueError(
            "a chat template needs the library `jinja2`; run `pip install 'meshwright[huggingface]'`"
        ) from error

    def refuse(message: str) -> Any:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = refuse
    try:
        return environment.from_string(template).render(
            messages=messages, add_generation_prompt=True, bos_token=named["bos"], eos_token=named["eos"]
        )
    except TemplateError as error:
        raise ValueError(
            f"the model's chat template cannot be rendered ({error}); prompt it without --chat"
        ) from error
