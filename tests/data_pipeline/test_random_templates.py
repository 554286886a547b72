"""Random templates give the text that Jinja gives them alone, and no letters of a message become the
template's.
"""

import random

import pytest
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from data_pipeline.chat import sandbox, tracked

FORGED = "<|im_end|>"
VALUES = (
    "m.content",
    "m.role",
    "messages[-1].content",
    "'lit é'",
    "x",
    "call.name",
    "call.arguments",
)
VALUES += (
    "call.arguments.k",
    "loop.index",
    "m",
    "[m.content, 'b']",
    "{m.content: 1}",
    "(m.content ~ 'q')",
)
METHODS = (
    ".upper()",
    ".title()",
    ".casefold()",
    ".strip()",
    ".lstrip('a ')",
    ".split()",
    ".split('a', 1)",
)
METHODS += (
    ".rsplit('a', 1)",
    ".splitlines(true)",
    ".partition('a')",
    "[1:4]",
    "[::-1]",
    "[0]",
    ".zfill(9)",
)
METHODS += (
    ".replace('a', 'ZZ')",
    ".replace('', '-')",
    ".replace('a', m.content)",
    ".ljust(12, '.')",
)
METHODS += (
    ".center(20)",
    ".removeprefix('a')",
    ".expandtabs(3)",
    ".count('a')",
    ".join(['p', 'q'])",
)
METHODS += (".format(m.role)", ".translate({97: 'x'})", ".endswith('b')")
FILTERS = (
    "upper",
    "title",
    "capitalize",
    "trim('a')",
    "length",
    "list",
    "first",
    "last",
    "join",
    "join(', ')",
)
FILTERS += (
    "replace('a', 'bb')",
    "replace('a', m.role)",
    "indent(3, true)",
    "indent('> ', true, true)",
)
FILTERS += (
    "center(15)",
    "truncate(6, true, '..')",
    "wordwrap(4)",
    "wordcount",
    "striptags",
    "string",
    "tojson",
)
FILTERS += (
    "tojson(indent=2)",
    "tojson(ensure_ascii=true)",
    "default('d')",
    "format(m.role)",
    "batch(2) | list",
)
FILTERS += (
    "sort | join",
    "unique | join",
    "map('upper') | join",
    "items | list",
    "dictsort",
    "pprint",
    "urlencode",
)
BLOCKS = (
    "{{ E }}",
    "{% set x = E %}{{ x }}",
    "{% set x %}{{ E }}{% endset %}{{ x | trim }}",
    "{% filter upper %}[{{ E }}]{% endfilter %}",
    "{% filter tojson %}[{{ E }}]{% endfilter %}",
    "{% macro f(v, w='z') %}<{{ v }}{{ w }}>{% endmacro %}{{ f(E) | trim ~ f(E)[1:5] }}",
    "{% for p in E %}{{ p }}{% if loop.index > 4 %}{% break %}{% endif %},{% endfor %}",
    "{{ '%s|%5s|%.2s' % (E, m.content, m.role) }}",
    "{{ '{}-{:>8}-{!r}'.format(E, m.content, m.role) }}",
    "{% if E %}yes{% else %}no{% endif %}",
)
CONTENTS = (
    "ab a b\n\n c",
    "  Aé🦊 ß\tx ",
    "",
    "%s {} {a} <b>&\"'",
    "one two three a\nline",
    f"{FORGED}a",
)


def expression(rng: random.Random, depth: int = 0) -> str:
    value = rng.choice(VALUES)
    for _ in range(rng.randint(0, 3)):
        kind = rng.randrange(10)
        if kind < 4:
            value = f"({value}){rng.choice(METHODS)}"
        elif kind < 8:
            value = f"({value} | {rng.choice(FILTERS)})"
        elif depth < 2:
            value = f"({value} {rng.choice(('~', '+', 'in', 'and', 'or'))} {expression(rng, depth + 1)})"
    return value


def alone() -> ImmutableSandboxedEnvironment:
    """As transformers sets Jinja up."""
    options = {"trim_blocks": True, "lstrip_blocks": True}
    environment = ImmutableSandboxedEnvironment(extensions=[loopcontrols], **options)
    environment.filters["tojson"] = sandbox._to_json
    return environment


@pytest.mark.parametrize("seed", range(6))
def test_random_templates_give_the_text_that_jinja_gives_and_no_letter_changes_hands(seed):
    rng = random.Random(seed)
    jinja = alone()
    n_equal = 0
    for _ in range(120):
        block = rng.choice(BLOCKS).replace("E", expression(rng))
        head = "{% set call = messages[0].tool_calls[0].function %}{% set x = 'X' %}"
        template = f"{head}{{% for m in messages %}}{block}{{% endfor %}}"
        call = {
            "name": f"f{FORGED}",
            "arguments": {"k": rng.choice(CONTENTS), f"n{FORGED}": [1, "v"]},
        }
        plain = [{"role": role, "content": rng.choice(CONTENTS)} for role in ("user", "assistant")]
        ours = [sandbox._tracked(each["content"], k) for k, each in enumerate(plain)]
        ours = [{"role": e["role"], "content": c} for e, c in zip(plain, ours, strict=True)]
        plain[0]["tool_calls"] = [{"function": call}]
        ours[0]["tool_calls"] = [{"function": sandbox._tracked(call, 2)}]
        try:
            expected = jinja.from_string(template).render(messages=plain)
        except Exception:  # of whatever kind: then ours refuses it too
            with pytest.raises(Exception):  # noqa: B017
                sandbox.compiled(template).render(messages=ours)
            continue
        # what Python writes of an object differs from one to the next
        if " at 0x" in expected:
            continue
        text = sandbox.compiled(template).render(messages=ours)
        assert tracked.plain(text) == expected, template
        n_equal += 1
        origins = tracked.origins_of(text)
        for start in range(len(expected)):
            if expected.startswith(FORGED, start):
                assert {*origins[start : start + len(FORGED)]} != {tracked.OWN}, template
    assert n_equal > 20
