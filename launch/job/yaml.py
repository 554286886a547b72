"""YAML as people mean it: `1e-3` is a number, `no` and `2026-01-01` and `1:30` are text, a key written
twice is an error.
"""

import re
from pathlib import Path
from typing import Any

import yaml

# YAML 1.2's core schema in place of PyYAML's YAML 1.1.
_RESOLVERS = [
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:int", r"[-+]?[0-9][0-9_]*", "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(?:[0-9][0-9_]*\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
]


class _Loader(yaml.SafeLoader):
    """SafeLoader with the resolvers above alone."""

    yaml_implicit_resolvers: dict = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """A mapping whose keys are text and stand once; PyYAML would keep the last of a repeated key
        without a word.
        """
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key!r} is not text; put it in quotes", problem_mark=key_node.start_mark
                )
            if key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key!r} stands twice; keep one", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes text which either our loader or a reader of YAML 1.1 would take for something
    else.
    """

    def ignore_aliases(self, data: Any) -> bool:
        """Equal parts are written out, never as anchors."""
        return True

    def text(self, data: str) -> yaml.ScalarNode:
        """Text with a rare line end in double quotes, where it is escaped; PyYAML would fold it into a
        space.
        """
        style = '"' if re.search("[\x85\u2028\u2029]", data) else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style)


for _tag, _pattern, _first in _RESOLVERS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), list(_first))
_Dumper.add_representer(str, _Dumper.text)
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value.replace("_", "")))


def parse_yaml(text: str, name: str) -> Any:
    """The value that `text` holds. Raises ValueError with line and column of what is not YAML; `name` says
    where it stands.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ValueError(
            f"{name}{where}: not YAML, {error.problem or error.context}; mend it there"
        ) from None
    except yaml.YAMLError as error:
        raise ValueError(f"{name}: not YAML, {' '.join(str(error).split())}; mend it there") from None


def read_yaml(path: Path) -> Any:
    """The value in a file. Raises ValueError for broken YAML and for text that is not UTF-8."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    return parse_yaml(text, str(path))


def to_yaml(tree: Any, flow: bool = False) -> str:
    """`tree` as YAML, keys in their order; `flow` writes one line."""
    style = {
        "width": 1000 if flow else 120,
        "default_flow_style": flow or None,
    }  # None: innermost lists and mappings on one line
    text = yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, **style)
    return text.removesuffix("\n...\n").rstrip("\n") if flow else text
