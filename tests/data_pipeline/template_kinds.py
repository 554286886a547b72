"""Chat templates as long as models ship them, written here in the manner of each kind, and conversations with
calls of tools, their results, thoughts and messages of several parts.

`template_kinds.json` holds the ids that transformers gives for each pair, or null where the template refuses
the conversation: `tests/oracles/make_chat_prompts.py` makes it. Nothing but the standard library is imported
here, because that script runs in an environment of its own.
"""

import json
from typing import Any, NamedTuple

# Calls as JSON and results in a user's turn, with a system message of its own where there is none.
HERMES = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- for tool in tools %}{{- tool | tojson }}{%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- else %}
    {{- '<|im_start|>system\\nYou are a model.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) or (message.role == 'assistant' and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == 'assistant' %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}{{- '\\n' + message.content }}{%- endif %}
        {%- for call in message.tool_calls %}
            {%- if call.function is defined %}{%- set call = call.function %}{%- endif %}
            {{- '\\n<tool_call>\\n{"name": "' }}{{- call.name }}{{- '", "arguments": ' }}
            {{- call.arguments | tojson }}{{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {%- if loop.index0 == 0 or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' }}{{- message.content }}{{- '\\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
# Thoughts of earlier answers are dropped, those behind the last question stay.
REASONER = """\
{%- set ns = namespace(searching=true, last=messages | length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages | length - 1) - loop.index0 %}
    {%- if ns.searching and message.role == 'user' and not (message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.searching = false %}{%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role in ['user', 'system'] %}
        {{- '<|im_start|>' ~ message.role ~ '\\n' ~ content ~ '<|im_end|>\\n' }}
    {%- elif message.role == 'assistant' %}
        {%- set thought = '' %}
        {%- if message.reasoning_content is defined and message.reasoning_content is not none %}
            {%- set thought = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last and (loop.last or thought) %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {%- if message.tool_calls %}
            {%- for call in message.tool_calls %}
                {%- if (loop.first and content) or not loop.first %}{{- '\\n' }}{%- endif %}
                {%- if call.function %}{%- set call = call.function %}{%- endif %}
                {{- '<tool_call>\\n<function=' ~ call.name ~ '>\\n' }}
                {%- for name, value in call.arguments | items %}
                    {{- '<parameter=' ~ name ~ '>\\n' }}
                    {{- value | tojson if value is mapping or (value is sequence and value is not string) else value | string }}
                    {{- '\\n</parameter>\\n' }}
                {%- endfor %}
                {{- '</function>\\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + content + '\\n</tool_response><|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n' }}{%- endif %}"""
# A head with dates, one call an answer, results as a role of their own.
HEADS = """\
{{- bos_token }}
{%- if not day is defined %}
    {%- if strftime_now is defined %}{%- set day = strftime_now('the day') %}{%- else %}{%- set day = 'no' %}{%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}{%- set messages = messages[1:] %}
{%- else %}{%- set system = '' %}{%- endif %}
{{- '<|head|>system<|/head|>\\n\\n' }}
{%- if tools is not none %}{{- 'Environment: ipython\\n' }}{%- endif %}
{{- 'Today: ' + day + '\\n\\n' + system + '<|eot|>' }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|head|>' + message['role'] + '<|/head|>\\n\\n' + message['content'] | trim + '<|eot|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls | length == 1 %}
            {{- raise_exception('one call at once') }}
        {%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|head|>assistant<|/head|>\\n\\n' -}}
        {{- '{"name": "' + call.name + '", "parameters": ' }}{{- call.arguments | tojson }}{{- '}<|eot|>' }}
    {%- elif message.role == 'tool' or message.role == 'ipython' %}
        {{- '<|head|>ipython<|/head|>\\n\\n' }}
        {%- if message.content is mapping or message.content is iterable %}{{- message.content | tojson }}
        {%- else %}{{- message.content }}{%- endif %}
        {{- '<|eot|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|head|>assistant<|/head|>\\n\\n' }}{%- endif %}"""
# Roles that must alternate, calls with ids of nine letters, the system message in the last question.
INST = """\
{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] %}{%- set rest = messages[1:] %}
{%- else %}{%- set rest = messages %}{%- endif %}
{%- set ns = namespace(index=0) %}
{%- for message in rest %}
    {%- if message.role == 'user' or (message.role == 'assistant' and message.tool_calls is not defined) %}
        {%- if (message.role == 'user') != (ns.index % 2 == 0) %}{{- raise_exception('roles must alternate') }}{%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in rest %}
    {%- if message['role'] == 'user' %}
        {%- if loop.last and system is defined %}{{- '[INST]' + system + '\\n\\n' + message['content'] + '[/INST]' }}
        {%- else %}{{- '[INST]' + message['content'] + '[/INST]' }}{%- endif %}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- '[TOOL_CALLS][' }}
        {%- for call in message.tool_calls %}
            {%- set out = call.function | tojson %}
            {{- out[:-1] }}
            {%- if not call.id is defined or call.id | length != 9 %}{{- raise_exception('ids have nine letters') }}{%- endif %}
            {{- ', "id": "' + call.id + '"}' }}
            {%- if not loop.last %}{{- ', ' }}{%- else %}{{- ']' + eos_token }}{%- endif %}
        {%- endfor %}
    {%- elif message['role'] == 'assistant' %}{{- message['content'] + eos_token }}
    {%- elif message['role'] == 'tool' %}
        {{- '[TOOL_RESULTS]{"content": ' + message.content | string + '}[/TOOL_RESULTS]' }}
    {%- else %}{{- raise_exception('no such role') }}
    {%- endif %}
{%- endfor %}"""
# The assistant is called model, and a content may be a list of typed parts.
TURNS = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}{%- set prefix = messages[0]['content'] + '\\n\\n' -%}
    {%- else -%}{%- set prefix = messages[0]['content'][0]['text'] + '\\n\\n' -%}{%- endif -%}
    {%- set turns = messages[1:] -%}
{%- else -%}{%- set prefix = '' -%}{%- set turns = messages -%}{%- endif -%}
{%- for message in turns -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception('roles must alternate user/assistant/user/…') }}
    {%- endif -%}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
    {{ '<turn>' + role + '\\n' + (prefix if loop.first else '') }}
    {%- if message['content'] is string -%}{{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}{%- if item['type'] == 'text' -%}{{ item['text'] | trim }}{%- endif -%}{%- endfor -%}
    {%- else -%}{{ raise_exception('no such content') }}{%- endif -%}
    {{ '</turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<turn>model\\n' }}{%- endif -%}"""
# State in a namespace, joined system messages, calls as code blocks.
STATES = """\
{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}
{% set ns = namespace(is_first=false, is_tool=false, first_call=true, system='', first_system=true) %}
{%- for message in messages %}{%- if message['role'] == 'system' %}
    {%- if ns.first_system %}{% set ns.system = ns.system + message['content'] %}{% set ns.first_system = false %}
    {%- else %}{% set ns.system = ns.system + '\\n\\n' + message['content'] %}{%- endif %}
{%- endif %}{%- endfor %}
{{ bos_token }}{{ ns.system }}
{%- for message in messages %}
    {%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}{{ '<|user|>' + message['content'] }}{%- endif %}
    {%- if message['role'] == 'assistant' and message['tool_calls'] is defined and message['tool_calls'] is not none %}
        {%- set ns.is_tool = false -%}
        {%- for call in message['tool_calls'] %}
            {%- if loop.first %}{{ '<|assistant|>' + (message['content'] or '') }}{%- else %}{{ '\\n' }}{%- endif %}
            {{- call['type'] + '/' + call['function']['name'] + '\\n```json\\n' + call['function']['arguments'] | tojson + '\\n```' }}
        {%- endfor %}{{ eos_token }}
    {%- elif message['role'] == 'assistant' %}
        {%- if ns.is_tool %}{{ '|' + message['content'] + eos_token }}{%- set ns.is_tool = false -%}
        {%- else %}{%- set content = message['content'] %}
            {%- if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif -%}
            {{ '<|assistant|>' + content + eos_token }}
        {%- endif %}
    {%- endif %}
    {%- if message['role'] == 'tool' %}{%- set ns.is_tool = true -%}{{ '\\n|' + message['content'] + '|' }}{%- endif %}
{%- endfor -%}
{% if add_generation_prompt and not ns.is_tool %}{{ '<|assistant|>' }}{% endif %}"""
# What Jinja has beside expressions: macros, calls of them, filters of blocks, assigned blocks.
BLOCKS = """\
{%- macro say(role, end='<|im_end|>') -%}
{{ '<|im_start|>' ~ role ~ '\\n' }}{{ caller() }}{{ end }}
{% endmacro -%}
{%- set known = ['system', 'user', 'assistant', 'tool'] -%}
{%- for message in messages if message.role in known recursive -%}
{%- set text -%}{%- filter trim -%}{{ message.content }}{%- endfilter -%}{%- endset -%}
{%- call say(message.role) -%}{%- if text -%}{{ text }}{%- else -%}(none){%- endif -%}{%- endcall -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant' }}{{ '\\n' }}{%- endif -%}"""
# Sequences of messages and what filters make of them.
FILTERS = """\
{{ bos_token }}{{ messages | map(attribute='role') | unique | join(', ') }}
{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list | last }}
{{ (messages | rejectattr('role', 'equalto', 'user') | list | first | default({'content': '-'}, true)).content }}
{%- for role, group in messages | groupby('role') %}{{ '\\n' + role + ':' + (group | length | string) }}{%- endfor %}
{%- for pair in messages | batch(2) %}{{ '<|head|>' }}{%- for m in pair %}{{ m.content | replace('\\n', ' ') | truncate(30, true) }}{{ '; ' }}{%- endfor %}{%- endfor %}
{%- for word in (messages | last).content.split() | reverse %}{{ ' ' + word | capitalize if loop.index <= 3 }}{%- endfor %}
{{ (messages | last).content | wordcount }} {{ (messages | first).content | length }} {{ messages[-1]['content'] | list | length }}
{{ '%-9s|%5.1f' | format(messages[0].role, 2.5) }} {{ messages[0].content.encode is defined }} {{ messages[0].content | e }}
{{ messages[0].content.find('o') }} {{ messages[0].content.count(' ') }} {{ messages[0].content == messages[-1].content }}
{%- if add_generation_prompt %}<|eot|>{% endif %}"""
# What transformers trains stands between marks.
MARKS = """\
{%- for message in messages %}
{%- if message.role == 'assistant' %}
{{- '<|im_start|>assistant\\n' }}{% generation %}{{- message.content }}{%- for call in message.tool_calls or [] %}{{ call.function.name ~ call.function.arguments }}{% endfor %}{{ '<|im_end|>' }}{% endgeneration %}{{- '\\n' }}
{%- else %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
# Documents beside the conversation, and a last turn that opens the answer within the loop.
DOCUMENTS = """\
{%- if documents %}{{- '<|head|>documents<|/head|>' }}{%- for each in documents %}{{- each.text }}{%- endfor %}{{- '<|eot|>' }}{%- endif %}
{%- set loop_messages = messages %}
{%- if messages[0]['role'] != 'system' %}{%- set system %}Be brief.{%- endset %}
{%- set loop_messages = [{'role': 'system', 'content': system}] + messages %}{%- endif %}
{%- for message in loop_messages %}
{{- '<|head|>' + message['role'] + '<|/head|>' + message['content'] }}
{%- if message.tool_calls %}{{- message.tool_calls | tojson(indent=2) }}{%- endif %}
{{- eos_token + '\\n' }}
{%- if loop.last and add_generation_prompt %}{{- '<|head|>assistant' }}{{- '<|/head|>' }}{%- endif %}
{%- endfor %}"""

KINDS = {
    "hermes": HERMES,
    "reasoner": REASONER,
    "heads": HEADS,
    "inst": INST,
    "turns": TURNS,
    "states": STATES,
    "blocks": BLOCKS,
    "filters": FILTERS,
    "marks": MARKS,
    "documents": DOCUMENTS,
}


class Say(NamedTuple):
    """A message: its text, or texts of several parts, and calls of tools behind them."""

    role: str
    texts: tuple[str, ...]
    calls: tuple[dict[str, Any], ...] = ()


def say(role: str, *texts: str, calls: tuple[dict[str, Any], ...] = ()) -> Say:
    return Say(role, texts, calls)


U, A, S, T = "user", "assistant", "system", "tool"
ADD = {"name": "add", "arguments": {"a": 2, "b": "two & <two>"}, "id": "abcde1234"}
LIST = {"name": "words", "arguments": {"of": ["é", "🦊", None, True, 1.5], "in": {"x": "order"}}}
LIST["id"] = "x23456789"
THOUGHT = "<think>\nWhat words?\n</think>\n\nThe list."
CONVERSATIONS = [
    [say(U, "The list of words?")],
    [say(S, "Be brief. "), say(U, " What?\n")],
    [say(U, "a"), say(A, "b"), say(U, "c"), say(A, " d "), say(U, "e")],
    [say(U, "The ", "list", "\nof words"), say(A, "It ", "is."), say(U, "so?")],
    [say(U, "q"), say(A, THOUGHT), say(U, "in order?")],
    [say(U, "2+2?"), say(A, "", calls=(ADD,)), say(T, "4")],
    [say(U, "2+2?"), say(A, "I add.", calls=(ADD, LIST)), say(T, '{"is": 4}'), say(T, "[1, 2]\n")],
    [say(U, "x"), say(A, THOUGHT, calls=(LIST,)), say(T, "4"), say(A, "4."), say(U, "And?")],
    [say(S, "A."), say(U, "q"), say(S, "B."), say(U, '"é" \\ 中文 🦊 {{ x }} {% if %} %s </x>')],
    [say(U, ""), say(A, ""), say(U, "<tool_response>\nno\n</tool_response>")],
]


def as_transformers(conversation: list[Say]) -> list[dict[str, Any]]:
    """Messages as transformers takes them: calls as the interface of OpenAI has them."""
    messages = []
    for role, texts, calls in conversation:
        message: dict[str, Any] = {"role": role, "content": "".join(texts)}
        if calls:
            message["tool_calls"] = [
                {
                    "type": "function",
                    "function": {"name": call["name"], "arguments": call["arguments"]},
                    "id": call["id"],
                }
                for call in calls
            ]
        messages.append(message)
    return messages


def call_text(call: dict[str, Any]) -> str:
    """A call as the content of a part of ours."""
    return json.dumps(call)
