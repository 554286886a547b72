"""A chat template that would never end, or take all memory, is stopped and said in one sentence."""

import json

import pytest

from data_pipeline.chat.rendering import JinjaTemplate, Turn, text_of

DOUBLED = (
    "{% set n = namespace(s='ab') %}{% for i in range(40) %}{% set n.s = n.s ~ n.s %}{% endfor %}"
)
TWICE = (
    "{% macro a() %}{{ b() }}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}"
)
HOSTILE = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "memory": "{{ [0] * 10**12 }}",
    "times": "{{ 'x' * 10**9 }}",
    "times_of_a_message": "{{ messages[0].content * 10**9 }}",
    "padding": "{{ 'x' | center(10**12) }}",
    "padding_of_a_message": "{{ messages[0].content.ljust(10**10) }}",
    "filled": "{{ messages[0].content.zfill(10**10) }}",
    "output": DOUBLED,
    "output_of_a_message": DOUBLED.replace("'ab'", "messages[0].content"),
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "two_macros": TWICE,
    "recursive_loop": "{% for a in [[1]] recursive %}{{ loop([a]) }}{% endfor %}",
    "caller": "{% macro f() %}{% call f() %}{{ caller() }}{% endcall %}{% endmacro %}{{ f() }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}{{ os.x }}",
    "extends": "{% extends 'base' %}",
    "arithmetic": "{{ 1 // 0 }}",
    "modulo": "{{ 1 % 0 }}",
    "overflow": "{{ 2.0 ** 99999 }}",
    "power": "{{ 9 ** (9 ** (9 ** 9)) }}",
    "digits": "{{ 10 ** 99999 }}",
    "shift": "{{ (10 ** 9) * ('ab' * 10 ** 9) }}",
    "range": "{{ range(10**12) | join }}",
    "join": "{{ (['xy'] * 10**8) | join('z') }}",
    "join_of_joins": "{{ (['xy' * 9999] * 9999) | join('z' * 9999) }}",
    "width": "{{ '%1000000000d' | format(1) }}",
    "precision": "{{ '%.1000000000f' % 1.5 }}",
    "format": "{{ '{:>1000000000}'.format(1) }}",
    "format_of_a_message": "{{ '{:>{n}}'.format(messages[0].content, n=10**10) }}",
    "format_attribute": "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "replace": "{{ ('a' * 99999).replace('a', 'b' * 99999) }}",
    "indent": "{{ ('a\\n' * 99999) | indent(99999) }}",
    "batch": "{{ [1] | batch(10**10, 'x') | list }}",
    "cycler": "{% set c = cycler(*range(99999)) %}{% for a in range(99999) %}{% for b in range(999) %}{% set _ = c.next() %}{% endfor %}{% endfor %}",
    "lipsum": "{{ lipsum(n=10**9) }}",
    "cyclic": "{% set n = namespace() %}{% set n.n = n %}{% for i in range(10**6) %}{{ n }}{% endfor %}",
    "tojson": "{{ (['x' * 9999] * 99999) | tojson(indent=9999) }}",
    "nested_tojson": "{% set n = namespace(a=[]) %}{% for i in range(99999) %}{% set n.a = [n.a] %}{% endfor %}{{ n.a | tojson }}",
    "parentheses": "{{ " + "(" * 9999 + "1" + ")" * 9999 + " }}",
    "braces": "{{ " + "{1:" * 100_000 + "1" + "}" * 100_000 + " }}",
    "opened": "{{" * 100_000,
    "lists": "{{ " + "[" * 100_000 + "]" * 100_000 + " }}",
    "sum_of_many": "{{ " + "1 + " * 100_000 + "1 }}",
    "not_of_many": "{{ " + "not " * 100_000 + "1 }}",
    "blocks_of_many": "{% if 1 %}" * 100_000 + "{% endif %}" * 100_000,
    "loops_of_many": "{% for a in [1] %}" * 300 + "{% endfor %}" * 300,
    "names": "{% set " + ", ".join(f"a{i}" for i in range(99_999)) + " = 1 %}",
    "blanks": "{#" + " " * 999_999,
    "unclosed": "{% for m in messages %}",
    "surrogate": "{{ '\\ud800' }}",
    "sandbox": "{{ messages.__class__.__base__.__subclasses__() }}",
    "attribute": "{{ messages | map(attribute='__class__') | list | attr('__mro__') + 1 }}",
    "globals": "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "generator": "{{ cycler.__init__.__globals__.os }}",
    "debug": "{% debug %}",
    "changes": "{{ messages.append(1) }}",
    "iterating": "{% for m in messages %}{{ m.update({'role': 1}) }}{% endfor %}",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_template_without_end_is_stopped_and_said_in_one_sentence(case):
    template = JinjaTemplate(HOSTILE[case], pieces={})
    with pytest.raises(ValueError, match="cannot be rendered") as refused:
        template.stretches([Turn("user", ("hi",))], opens_answer=True)
    assert len(str(refused.value)) < 400 and "\n" not in str(refused.value)


def test_a_long_message_is_given_time():
    template = JinjaTemplate("{{ messages[0].content | tojson }}", pieces={})
    text = 'é "quoted" 🦊\n' * 40_000
    shown = text_of(template.stretches([Turn("user", (text,))], opens_answer=True))
    assert json.loads(shown) == text


def test_after_a_refusal_the_next_template_is_rendered():
    for case in ("loops", "times", "braces"):
        with pytest.raises(ValueError, match="cannot be rendered"):
            JinjaTemplate(HOSTILE[case], pieces={}).stretches([], opens_answer=True)
        after = JinjaTemplate("{{ 1 + 1 }}", pieces={}).stretches([], opens_answer=True)
        assert text_of(after) == "2"
