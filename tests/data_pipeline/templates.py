"""Chat templates in the styles that models ship, and a tokenizer that has all their pieces.

Written for these tests after what each family's prompts look like; none is a family's own file.
"""

import json
from functools import cache
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from data_pipeline.tokenizers.hugging_face import HuggingFaceTokenizer
from data_pipeline.tokenizers.tokenizer import Tokenizer

SPECIAL = [
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "<|head|>",
    "<|/head|>",
    "<|eot|>",
    "<turn>",
    "</turn>",
]
SPECIAL += ["<|user|>", "<|assistant|>", "<|end|>"]
CHATML = """\
{% for message in messages %}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
# ChatML with a system message of its own where none is given, as Qwen and SmolLM have it, and with the tags
# that say to transformers what is trained
DEFAULT_SYSTEM = """\
{%- if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou are a model.<|im_end|>\\n' }}{% endif %}
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.role == 'assistant' %}
{%- generation %}{{- message.content + '<|im_end|>' }}{%- endgeneration %}
{{- '\\n' }}
{%- else %}{{- message.content + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
# Llama 3: begins the text itself, and strips contents
HEADERS = """\
{{- bos_token }}
{%- for message in messages %}
{{- '<|head|>' + message['role'] + '<|/head|>\\n\\n' + message['content'] | trim + '<|eot|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|head|>assistant<|/head|>\\n\\n' }}{%- endif %}"""
# Llama 2 and Mistral: a system message stands within the first user's, nothing opens an answer but the end of
# the question, and white space stands around the answer
INST = """\
{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}{% set rest = messages[1:] %}
{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}
{% for message in rest %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
{% if message['role'] == 'user' %}
{{ bos_token + '[INST] ' + ('<<' + system + '>>\\n' if loop.first and system else '') + message['content'].strip() + ' [/INST]' }}
{%- else %}{{ ' ' + message['content'].strip() + ' ' + eos_token }}
{%- endif %}
{%- endfor %}"""
# Gemma: the assistant is called model
TURNS = """\
{{ bos_token }}
{%- for message in messages %}
{%- if message['role'] == 'system' %}{{ raise_exception('there is no system role') }}{% endif %}
{%- set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{- '<turn>' + role + '\\n' + message['content'] | trim + '</turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<turn>model\\n' }}{%- endif %}"""
# Phi 3: its pieces take the line break behind them along
PHI = """\
{%- for message in messages %}{{- '<|' + message.role + '|>\\n' + message.content + '<|end|>\\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\\n' }}{%- else %}{{- eos_token }}{%- endif %}"""
# Qwen 3: thoughts of answers before the last question are dropped, and the last answer gets empty ones
THOUGHTS = """\
{%- set last = namespace(user=0) %}
{%- for message in messages %}{%- if message.role == 'user' %}{%- set last.user = loop.index0 %}{%- endif %}{%- endfor %}
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.role == 'assistant' and loop.index0 < last.user %}{{- message.content.split('</think>')[-1].lstrip('\\n') }}
{%- elif message.role == 'assistant' and '</think>' not in message.content %}{{- '<think>\\n\\n</think>\\n\\n' + message.content }}
{%- else %}{{- message.content }}{%- endif %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
STYLES = {
    "chatml": CHATML,
    "default_system": DEFAULT_SYSTEM,
    "headers": HEADERS,
    "inst": INST,
    "turns": TURNS,
    "phi": PHI,
    "thoughts": THOUGHTS,
}
# how each ends an answer
ENDS = {"headers": "<|eot|>", "inst": "</s>", "turns": "</turn>", "phi": "<|end|>"}


@cache
def library_tokenizer() -> tokenizers.Tokenizer:
    """A byte-level BPE whose special pieces are those of all the styles."""
    made = tokenizers.Tokenizer(models.BPE())
    made.decoder = decoders.ByteLevel()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    texts = [
        "user\n\nassistant\n\nmodel\n [INST] The list of words, in order. [/INST] \n\nYou are a model."
    ] * 3
    trainer = trainers.BpeTrainer(
        vocab_size=360, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    stripping = [
        tokenizers.AddedToken(piece, rstrip=True, special=True)
        for piece in ("<|user|>", "<|assistant|>", "<|end|>")
    ]
    made.add_special_tokens(stripping)
    return made


def with_template(template: str, folder: Path) -> Tokenizer:
    """The tokenizer as it is imported with a template."""
    file = folder / "tokenizer.json"
    library_tokenizer().save(str(file))
    path = folder / "tokenizer.model"
    end = {"<|end|>": "<|im_end|>"}
    HuggingFaceTokenizer(path=str(file), bos="<s>", eos="</s>", control=end).make(
        {}, path, weights={}
    )
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": template}))
    return Tokenizer(path)
