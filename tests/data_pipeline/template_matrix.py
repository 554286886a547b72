"""Chat templates in short form, each with what some family's template does to a message, and conversations
with what breaks such things. `template_matrix.json` holds a digest of the ids that transformers 5.23's
`apply_chat_template(add_generation_prompt=True)` gives with the tokenizer of `templates.py`.
"""

EACH = "{% for m in messages %}"
END = "{% endfor %}"
ASKED = "{% if add_generation_prompt %}"
FI = "{% endif %}"


def chatml(content: str, extra: str = "") -> str:
    """ChatML with something done to each content."""
    return (
        extra
        + EACH
        + "{{ '<|im_start|>' + m.role + '\n' }}{{ "
        + content
        + " }}{{ '<|im_end|>\n' }}"
        + END
        + ASKED
        + "{{ '<|im_start|>assistant\n' }}"
        + FI
    )


TEMPLATES = {
    "chatml": chatml("m.content"),
    "trim": chatml("m.content | trim"),
    "upper": chatml("m.content.upper()"),
    "title": chatml("m.content | title"),
    "slice": chatml("m.content[1:9]"),
    "tojson": chatml("m.content | tojson"),
    "json_message": chatml("m | tojson"),
    "split_think": chatml("m.content.split('</think>')[-1].lstrip('\n')"),
    "replace": chatml("m.content | replace('a', 'bb')"),
    "indent": chatml("m.content | indent(2)"),
    "lines": chatml("m.content.splitlines() | join(' / ')"),
    "format": chatml("'%s: %s' % (m.role, m.content)"),
    "str_format": chatml("'<{}>'.format(m.content)"),
    "concat": chatml("'(' ~ m.content ~ ')'"),
    "length": chatml("m.content ~ m.content | length"),
    "day": chatml(
        "m.content",
        "{{ strftime_now('no day') }}{% if tools is none and documents is none %}none{% endif %}",
    ),
    "generation": EACH
    + "{{ '<|im_start|>' + m.role + '\n' }}{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}"
    + END
    + ASKED
    + "{{ '<|im_start|>assistant\n' }}"
    + FI,
    "inst": EACH
    + "{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content + ' [/INST]' }}{% else %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}"
    + END,
    "inst_tight": EACH
    + "{% if m.role == 'user' %}{{ bos_token + '[INST]' + m.content + '[/INST]' }}{% else %}{{ m.content + eos_token }}{% endif %}"
    + END,
    "headers": "{{ bos_token }}"
    + EACH
    + "{{ '<|head|>' + m.role + '<|/head|>\n\n' + m.content | trim + '<|eot|>' }}"
    + END
    + ASKED
    + "{{ '<|head|>assistant<|/head|>\n\n' }}"
    + FI,
    "turns": "{{ bos_token }}"
    + EACH
    + "{{ '<turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + m.content | trim + '</turn>\n' }}"
    + END
    + ASKED
    + "{{ '<turn>model\n' }}"
    + FI,
    "phi": EACH
    + "{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}"
    + END
    + ASKED
    + "{{ '<|assistant|>\n' }}"
    + FI,
    "loop": EACH
    + "{% if m.content == 'skip' %}{% continue %}{% endif %}{{ m.content }}{% if loop.last %}{% break %}{% endif %}{{ eos_token }}"
    + END
    + ASKED
    + "A:"
    + FI,
    "macro": "{% macro say(m) %}{{ '<turn>' + m.role }}{% set s %}{{ m.content }}{% endset %}{{ s | trim }}</turn>{% endmacro %}"
    + EACH
    + "{{ say(m) }}"
    + END
    + ASKED
    + "<turn>{{ unk_token }}{{ pad_token }}"
    + FI,
}
# What a random comparison with Jinja found: texts within lists and mappings, methods of plain strings in a
# loop, and texts marked as safe.
TEMPLATES["within"] = chatml(
    "({m.content: [m.content]} | trim) ~ [m.content, m.role] ~ ([m.content] | join('-'))"
)
TEMPLATES["safe"] = chatml("(m.content | safe) ~ ' x '.strip() ~ ' '.join([m.role, m.content])")
U, A, S = "user", "assistant", "system"
CONVERSATIONS = [
    [(U, "hi")],
    [(U, "  Two spaces before and behind  ")],
    [(U, "\n\nlines\n\nof text\n")],
    [(S, "Be brief."), (U, "The list of words?")],
    [(U, "a"), (A, "b"), (U, "c")],
    [(U, "What?"), (A, " The list "), (U, "in order?")],
    [(U, "q"), (A, "<think>\nx\n</think>\n\nThe list."), (U, "so?")],
    [(U, '"quoted" \\ {json} <b>&amp;</b>')],
    [(U, "é e\u0301 中文 🦊 ß İ")],
    [(U, "")],
    [(U, "    def f(x):\n        return x\n\n\n# end")],
    [(U, "%s {} {{ x }} {% if %}")],
    [(U, "don't [INST] stop [/INST] skip")],
    [(U, "1"), (A, "\n\n2\n"), (U, "3"), (A, ""), (U, "words, in order. " * 9)],
]
