"""Makes tests/data_pipeline/template_matrix.json and template_kinds.json: the ids that transformers'
apply_chat_template gives for the templates and conversations of the modules of the same names.

Not run by any test and no dependency of ours: it needs `transformers==5.23.0 jinja2` in an environment of its
own, and the tokenizer of tests/data_pipeline/templates.py, which our own environment writes:

    python -c "from tests.data_pipeline.templates import library_tokenizer as t; t().save('tokenizer.json')"
    OTHER_PYTHON tests/oracles/make_chat_prompts.py tokenizer.json tests/data_pipeline
"""

import hashlib
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerFast

from tests.data_pipeline import template_kinds, template_matrix


def ids_of(tokenizer, template: str, messages: list[dict]) -> list[int] | None:
    """The ids of a prompt; None where the template refuses the conversation."""
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": False}
    try:
        return tokenizer.apply_chat_template(messages, chat_template=template, **options)
    except TemplateError as error:
        print(f"  refused: {error}")
        return None


def matrix(tokenizer) -> str:
    """A line a template, with a digest a conversation."""
    lines = []
    for name, template in template_matrix.TEMPLATES.items():
        digests = []
        for conversation in template_matrix.CONVERSATIONS:
            messages = [{"role": role, "content": content} for role, content in conversation]
            ids = json.dumps(ids_of(tokenizer, template, messages))
            digests.append(hashlib.sha256(ids.encode()).hexdigest()[:12])
        lines.append(f" {json.dumps(name)}: {json.dumps(digests)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def kinds(tokenizer) -> str:
    """A line a prompt."""
    blocks = []
    for name, template in template_kinds.KINDS.items():
        lines = []
        for conversation in template_kinds.CONVERSATIONS:
            messages = template_kinds.as_transformers(conversation)
            lines.append(f"  {json.dumps(ids_of(tokenizer, template, messages))}")
        blocks.append(f" {json.dumps(name)}: [\n" + ",\n".join(lines) + "\n ]")
    return "{\n" + ",\n".join(blocks) + "\n}\n"


def main(file: str, folder: str) -> None:
    pieces = {"bos_token": "<s>", "eos_token": "</s>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=file, **pieces)
    Path(folder, "template_matrix.json").write_text(matrix(tokenizer))
    Path(folder, "template_kinds.json").write_text(kinds(tokenizer))


if __name__ == "__main__":
    main(*sys.argv[1:])
