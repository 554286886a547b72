"""Tokenizers of GGUF files that cannot be read are left out, and damaged ones refused."""

import pytest

from launch.exchange.tokenizer_files import imported
from tests.launch.test_import_export import NOWHERE, gguf_metadata


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": "llama"}, "kind 'llama', 'smollm'"),
        ({"pre": "tekken"}, "kind 'gpt2', 'tekken'"),
        ({"pre": ["smollm"]}, "kind 'gpt2', ['smollm']"),
        ({"eos_token_id": None}, "ends a text"),
    ],
)
def test_a_tokenizer_that_cannot_be_read_is_left_out_and_said(changed, message, tmp_path):
    assert message in imported(NOWHERE, gguf_metadata(**changed), tmp_path / "tokenizer.model")
    assert not (tmp_path / "tokenizer.model").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"merges": None}, "no list tokenizer.ggml.merges"),
        ({"merges": [3]}, "no list tokenizer.ggml.merges of str"),
        ({"tokens": [[1]] * 261}, "no list tokenizer.ggml.tokens of str"),
        ({"token_type": ["3"] * 261}, "no list tokenizer.ggml.token_type of int"),
        ({"token_type": [3]}, "261 tokens and 1 types"),
        ({"bos_token_id": 1 << 31}, "bos_token_id=2147483648 is none of its 261 tokens"),
        ({"eos_token_id": "2"}, "eos_token_id='2' is none of its 261 tokens"),
        ({"eot_token_id": -1}, "eot_token_id=-1 is none of its 261 tokens"),
    ],
)
def test_a_damaged_tokenizer_of_a_gguf_file_is_refused(changed, message, tmp_path):
    with pytest.raises(ValueError, match=f"{message}.*; .*take safetensors"):
        imported(NOWHERE, gguf_metadata(**changed), tmp_path / "tokenizer.model")
    assert not (tmp_path / "tokenizer.model").exists()
