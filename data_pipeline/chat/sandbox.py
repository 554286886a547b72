"""The side of a chat template that runs in a child process (see `readers/worker.py`), which may be killed: a
template comes from anywhere, and may loop for ever or ask for all memory.
"""

import datetime
import json
from collections.abc import Callable, Iterable
from functools import lru_cache, wraps
from itertools import groupby
from types import BuiltinMethodType
from typing import Any

from jinja2 import TemplateError, filters, nodes, pass_environment
from jinja2.compiler import CodeGenerator
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

from data_pipeline.chat import tracked
from data_pipeline.chat.tracked import Tracked

MAX_CHARS = 1 << 24  # of a rendered conversation: more than any context holds
# Filters of Jinja that make a new string of their argument's letters in ways that are not followed.
REWRITING = ("title", "wordwrap", "striptags", "urlize", "urlencode", "escape", "e", "forceescape")
REWRITING += ("xmlattr", "pprint")
AS_TEXT = ("trim", "upper", "lower", "capitalize", "center", "string")


class Generation(Extension):
    """`{% generation %}` marks what transformers trains; here the messages' parts say that."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The body; the tag itself writes nothing."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Code(CodeGenerator):
    """Jinja's compiler, whose `a ~ b` keeps origins."""

    def visit_Concat(self, node: nodes.Concat, frame: Any) -> None:
        """Write a call of the environment's own `concat`, in place of the built-in join."""
        self.write("environment.concat(map(environment.finalize, (")
        for arg in node.nodes:
            self.visit(arg, frame)
            self.write(", ")
        self.write(")))")


def as_text(value: Any) -> str:
    """What is written of a value: lists and mappings by their `repr`, as Jinja does."""
    return value if isinstance(value, str) else tracked.tainted(str(value), value)


def written(pieces: Iterable[str]) -> str:
    """Join what a template writes, with its origins.

    Raises:
        ValueError: it is longer than `MAX_CHARS`.
    """
    n_chars = 0
    kept = []
    for piece in pieces:
        n_chars += len(piece)
        if n_chars > MAX_CHARS:
            raise ValueError(f"it writes more than {MAX_CHARS:,} characters")
        kept.append(piece)
    return tracked.joined(kept)


class Sandbox(ImmutableSandboxedEnvironment):
    """As transformers makes it, with strings that keep their origins."""

    code_generator_class = Code
    concat = staticmethod(written)
    intercepted_binops = frozenset({"%"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """`%`, which fills in a format or divides."""
        run = self.binop_table[operator]
        if not isinstance(left, str):
            return run(left, right)
        return tracked.shadowed(run, left, right)

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """A function or method; those of plain strings keep the origins of their arguments."""
        # what compiled loops and blocks add for functions that are given the context
        named = {name: kwargs[name] for name in kwargs if name not in ("_loop_vars", "_block_vars")}
        is_method = isinstance(obj, BuiltinMethodType)
        if is_method and isinstance(obj.__self__, Tracked) and obj.__name__ == "encode":
            raise SecurityError("it makes bytes of a message, which could forge control pieces")
        if is_method and type(obj.__self__) is str:
            if self.is_safe_callable(obj):
                return tracked.called(obj, args, named)
        return super().call(context, obj, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Jinja's stand-in for `str.format`, with origins; None for all else."""
        if super().wrap_str_format(value) is None:
            return None
        form = tracked.plain(value.__self__)
        method = form.format if value.__name__ == "format" else form.format_map
        run = super().wrap_str_format(method)

        def formatted(*args: Any, **kwargs: Any) -> str:
            text = tracked.shadowed(lambda args, named: run(*args, **named), args, kwargs)
            # a message that is itself the format
            return tracked.tainted(text, value.__self__)

        return formatted


def _tainting(run: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(run)  # with Jinja's marks on it
    def tainting(*args: Any, **kwargs: Any) -> Any:
        result = run(*args, **kwargs)
        return tracked.tainted(result, (args, kwargs)) if isinstance(result, str) else result

    return tainting


def _of_text(run: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that is given its value as text: Jinja's own would write a list or mapping without origins."""

    @wraps(run)
    def of_text(value: Any, *args: Any, **kwargs: Any) -> Any:
        return run(as_text(value), *args, **kwargs)

    return of_text


@pass_environment
def _join(environment: Any, value: Any, d: str = "", attribute: str | int | None = None) -> str:
    items = value
    if attribute is not None:
        items = map(filters.make_attrgetter(environment, attribute), value)
    return tracked.own(as_text(d)).join(map(as_text, items))


def _replace(text: Any, old: str, new: str, count: int | None = None) -> str:
    return tracked.own(as_text(text)).replace(old, new, -1 if count is None else count)


def _indent(text: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    margin = width if isinstance(width, str) else " " * width
    # Jinja's own, line by line: it ends a text with a line break before it splits it.
    head, *rest = tracked.own(text + "\n").splitlines()
    lines = [line if not line and not blank else margin + line for line in rest]
    indented = tracked.own("\n").join([head, *lines])
    return margin + indented if first else indented


def _format(text: Any, *args: Any, **kwargs: Any) -> str:
    return tracked.shadowed(lambda form, values: form % values, as_text(text), kwargs or args)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own would write < and > as entities of HTML.
    options = {"indent": indent, "separators": separators, "sort_keys": sort_keys}
    return tracked.to_json(value, ensure_ascii=ensure_ascii, **options)


def _refuse(message: str) -> Any:
    raise TemplateError(message)


def _tracked(value: Any, part: int) -> Any:
    """A text, or JSON with texts in it, of which each letter comes from the part of that number."""
    if isinstance(value, str):
        return Tracked(value, chr(part + 1) * len(value))
    if isinstance(value, dict):
        return {_tracked(key, part): _tracked(item, part) for key, item in value.items()}
    return [_tracked(item, part) for item in value] if isinstance(value, list) else value


def _call(text: str, part: int) -> dict[str, Any]:
    """A call of a tool as transformers gives it to templates."""
    fields = _tracked(json.loads(text), part)
    function = {"name": fields["name"], "arguments": fields["arguments"]}
    call = {"type": "function", "function": function}
    # Some templates ask for it, and the others do not know the field.
    return {**call, "id": fields["id"]} if "id" in fields else call


@lru_cache(maxsize=8)
def compiled(source: str) -> Any:
    """A template ready to render."""
    environment = Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[Generation, loopcontrols],
        finalize=as_text,
        # `'x' * 10**9` is not worked out while compiling, where no origin is known
        optimized=False,
    )
    environment.globals["raise_exception"] = _refuse
    for name in REWRITING:
        environment.filters[name] = _tainting(environment.filters[name])
    for name in AS_TEXT:
        environment.filters[name] = _of_text(environment.filters[name])
    # A text marked as safe is one like any other where nothing is escaped.
    environment.filters["safe"] = as_text
    own_filters = {"join": _join, "replace": _replace, "indent": _indent, "format": _format}
    environment.filters.update(own_filters, tojson=_to_json)
    return environment.from_string(source)


def render(request: bytes) -> bytes:
    """The handler: a template and messages as JSON → stretches (origin, text) of the rendering as JSON.

    An origin is -1 for the template's own text, else a part's number, counted over all messages.
    """
    fields = json.loads(request)
    n_parts = 0
    messages = []
    for role, parts, calls in fields["messages"]:
        pieces = [_tracked(part, n_parts + k) for k, part in enumerate(parts)]
        message: dict[str, Any] = {"role": role, "content": tracked.joined(pieces)}
        n_parts += len(parts)
        if calls:
            message["tool_calls"] = [_call(call, n_parts + k) for k, call in enumerate(calls)]
        n_parts += len(calls)
        messages.append(message)
    now = datetime.datetime.fromisoformat(fields["now"])
    text = compiled(fields["template"]).render(
        messages=messages,
        add_generation_prompt=fields["opens_answer"],
        tools=None,  # defined in transformers even where there are none
        documents=None,
        strftime_now=now.strftime,
        **fields["pieces"],
    )
    tracked.plain(
        text
    ).encode()  # refuses lone surrogates, which a template can write and no text has
    stretches = []
    done = 0
    for origin, group in groupby(tracked.origins_of(text)):
        n = sum(1 for _ in group)
        stretches.append((ord(origin) - 1, tracked.plain(text)[done : done + n]))
        done += n
    return json.dumps(stretches).encode()
