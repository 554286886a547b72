"""Prompts of 26 templates for 14 conversations have the ids of transformers' apply_chat_template."""

import hashlib
import json
from pathlib import Path

import pytest

from data_pipeline.chat.format import chat_format_of
from data_pipeline.chat.message import text_message
from tests.data_pipeline.template_matrix import CONVERSATIONS, TEMPLATES
from tests.data_pipeline.templates import with_template

DIGESTS = json.loads(Path(__file__).with_name("template_matrix.json").read_text())


@pytest.mark.parametrize("name", TEMPLATES)
def test_prompts_have_the_ids_of_transformers(name, tmp_path):
    chat = chat_format_of(with_template(TEMPLATES[name], tmp_path))
    digests = []
    for conversation in CONVERSATIONS:
        ids = chat.prompt([text_message(role, content) for role, content in conversation])
        digests.append(hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:12])
    assert digests == DIGESTS[name]
