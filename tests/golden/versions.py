"""What data components make of small fixed inputs, beside the VERSION that they make it under.

`python -m tests.golden.versions` writes versions.json anew. It refuses an output that has changed while its
VERSION has not: cached results are found by VERSION, so the old output would be taken for the new one.
"""

import importlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from data_pipeline import settings
from tests.golden.version_inputs import write_inputs
from tests.golden.version_outputs import (
    format_outputs,
    plain,
    reader_outputs,
    rule_outputs,
    stage_outputs,
)
from tests.house.repository import module_of, sources

GOLDEN = Path(__file__).with_name("versions.json")
REWRITE = "run `python -m tests.golden.versions`"


class Output(NamedTuple):
    """What one component makes: `version` is its VERSION, `digest` 16 hex digits of the output."""

    version: int
    digest: str


def outputs(folder: Path) -> dict[str, Output]:
    """FOLDER.NAME → output, of every component and stage that makes data; inputs are written to `folder`."""
    write_inputs(folder)
    made: dict[str, Output] = {}
    for name, version, value in (
        *reader_outputs(folder),
        *rule_outputs(folder),
        *format_outputs(folder),
        *stage_outputs(folder),
    ):
        made[name] = Output(version, settings.digest(plain(value)))
    return made


def versioned() -> set[str]:
    """FOLDER.NAME of everything in the data room that has a VERSION: classes, and modules of stages and formats."""
    names = set()
    for path in sources("data_pipeline"):
        module = importlib.import_module(module_of(path))
        folder, _, stem = module.__name__.removeprefix("data_pipeline.").rpartition(".")
        if isinstance(vars(module).get("VERSION"), int):
            names.add(f"{folder}.{stem}")
        for name, value in vars(module).items():
            if (
                isinstance(value, type)
                and value.__module__ == module.__name__
                and "VERSION" in vars(value)
            ):
                names.add(f"{folder}.{name}")
    return names


def problems(golden: Mapping[str, Any], made: Mapping[str, Output]) -> Iterator[str]:
    """A sentence for each output that has changed under the same VERSION."""
    for name, output in made.items():
        version, digest = golden.get(name, (None, None))
        if version == output.version and digest != output.digest:
            yield (
                f"{name} makes other output than VERSION {version} did; if that is meant, set its VERSION to "
                f"{version + 1} and {REWRITE}, else mend it"
            )


def main() -> int:
    """Write versions.json, unless an output has changed under the same VERSION."""
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = (
            folder  # a classifier that was trained before would hide a change
        )
        made = outputs(Path(folder))
    if found := list(problems(golden, made)):
        print("\n".join(found), file=sys.stderr)
        return 1
    lines = [f"  {json.dumps(name)}: {json.dumps(made[name])}" for name in sorted(made)]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
