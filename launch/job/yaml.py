"""YAML 1.2 as people mean it: `1e-3` is a number, `no` and `2026-01-01` and `1:30` are text, a key written
twice is an error.
"""

import io
import json
import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode
from ruamel.yaml.representer import SafeRepresenter

# Text that a reader of YAML 1.1 (PyYAML, many editors) takes for a boolean or a number of base 60.
OTHER_IN_YAML_1_1 = re.compile(
    r"(?i:y|n|yes|no|on|off)|[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?"
)
# Line ends that YAML folds into a space, except in double quotes, where they are escaped.
RARE_LINE_ENDS = re.compile("[\x85\u2028\u2029]")


class _Constructor(SafeConstructor):
    """Values of the safe types; the keys of a mapping are text and stand once."""

    def check_mapping_key(
        self, node: MappingNode, key_node: Node, mapping: Any, key: Any, value: Any
    ) -> bool:
        """Called by ruamel.yaml for every key before it is added to `mapping`."""
        problem = None
        if not isinstance(key, str):
            problem = f"the key {key!r} is not text; put it in quotes"
        elif key in mapping:
            problem = f"the key {key!r} stands twice; keep one"
        if problem:
            raise MarkedYAMLError(problem=problem, problem_mark=key_node.start_mark)
        return True


# Dates stay text: no field is a date, but many a name looks like one (2026-01-01).
_Constructor.add_constructor("tag:yaml.org,2002:timestamp", SafeConstructor.construct_yaml_str)


class _Representer(SafeRepresenter):
    """Text is quoted wherever a reader could take it for something else."""

    def ignore_aliases(self, data: Any) -> bool:
        """Equal values are written out, never as anchors."""
        # With anchors (&id001) a person could not edit one of the places alone.
        return True

    def represent_str(self, data: str) -> ScalarNode:
        """A scalar; the emitter itself quotes what YAML 1.2 would read as another type."""
        style = None
        if RARE_LINE_ENDS.search(data):
            style = '"'
        # Within brackets ruamel.yaml does not read back a plain key that begins with one of these.
        elif OTHER_IN_YAML_1_1.fullmatch(data) or data.startswith((":", "?")):
            style = "'"
        return self.represent_scalar("tag:yaml.org,2002:str", data, style)

    def represent_float(self, data: float) -> ScalarNode:
        """`1.0e-05`: without the point a reader of YAML 1.1 would take it for text."""
        node = super().represent_float(data)
        if "e" in node.value and "." not in node.value:
            node.value = node.value.replace("e", ".0e")
        return node


_Representer.add_representer(str, _Representer.represent_str)
_Representer.add_representer(float, _Representer.represent_float)


def parse_yaml(text: str, name: str) -> Any:
    """The value that `text` holds.

    Raises:
        ValueError: it is not YAML, or contains itself; `name` says where the text stands, and the sentence
            has line and column if they are known.
    """
    reader = YAML(typ="safe", pure=True)  # pure, because libyaml knows only YAML 1.1
    reader.Constructor = _Constructor
    try:
        value = reader.load(text)
        # An alias may stand within what it names; JSON, which validation goes by, cannot say that.
        json.dumps(value, default=str)
        return value
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = error.problem or error.context
        raise ValueError(f"{name}{where}: not YAML, {problem}; mend it there") from None
    except YAMLError as error:
        problem = " ".join(str(error).split())
        raise ValueError(f"{name}: not YAML, {problem}; mend it there") from None
    except (ValueError, RecursionError) as error:  # a whole number of 10,000 digits, say
        raise ValueError(f"{name}: cannot be read, {error}; mend it there") from None


def read_yaml(path: Path) -> Any:
    """The value in a file.

    Raises:
        ValueError: it is not YAML, or not UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8"
        ) from None
    return parse_yaml(text, str(path))


def to_yaml(tree: Any, flow: bool = False) -> str:
    """`tree` as YAML, keys in their order; `flow` writes one line."""
    writer = YAML(typ="safe", pure=True)
    writer.Representer = _Representer
    # Keys stay in the order of the fields, which is that of the documentation.
    writer.sort_base_mapping_type_on_output = False
    writer.allow_unicode = True
    # 1000, because a value in an error message should not be folded into several lines.
    writer.width = 1000 if flow else 120
    # None: only the innermost lists and mappings are written on one line.
    writer.default_flow_style = True if flow else None
    out = io.StringIO()
    writer.dump(tree, out)
    text = out.getvalue()

    # A document that is one plain scalar ends with a line of dots.
    return text.removesuffix("\n...\n").rstrip("\n") if flow else text
