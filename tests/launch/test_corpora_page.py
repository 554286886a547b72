"""What docs/corpora.md shows works as it stands there."""

import json
import re

from launch.verbs.data import ACTIONS
from tests.house.repository import ROOT
from tests.launch.command import ROOT as IMPORTED_FROM
from tests.launch.command import meshwright
from tests.launch.corpus import texts

PAGE = (ROOT / "docs" / "corpora.md").read_text(encoding="utf-8")


def test_the_rule_and_the_reader_of_the_page_run(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "parts.py").write_text(
        re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1]
    )
    lines = [" ".join(text.split()) for text in texts("web", 60)]
    (tmp_path / "lines.txt").write_text(
        "\n".join([*lines, "", *(line.upper() for line in lines[:7])])
    )
    fields = {
        "sources": {"lines": {"type": "Lines", "path": str(tmp_path / "lines.txt")}},
        "recipe": [{"type": "Shouting", "sources": ["lines"], "max_frac": 0.3}],
        "held_out_frac": 0.1,
        "held_out_filter": {"jaccard": 0.7, "common_groups": 8},
        "tokenizer": {"type": "SentencePiece", "vocab_size": 320, "model": "bpe"},
        "seed": 0,
        "engine": {"workers": 1},
    }
    (tmp_path / "job.yaml").write_text(json.dumps({"data": {"type": "Prepare", **fields}}))
    path = f"{IMPORTED_FROM}:{tmp_path}"
    done = meshwright(
        "run", "job.yaml", "--import", "mine.parts", "--dir", "run", cwd=tmp_path, PYTHONPATH=path
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "run" / "data" / "results.json").read_text())
    assert results["dropped"]["lines"]["line_empty"] == 1
    assert results["dropped"]["lines"]["shouting"] == 7


def test_every_action_is_on_the_page():
    assert set(re.findall(r"meshwright data (\w+)", PAGE)) == set(ACTIONS)
