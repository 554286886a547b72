"""The page of several runs, and the verb that writes both pages."""

import json
import re

import numpy as np
import pytest

from launch.__main__ import main as meshwright
from launch.reporting.compare import names_of
from launch.reporting.numbers import tokens
from launch.reporting.record import read_run
from launch.reporting.write import write_comparison
from launch.verbs.report import add_arguments, main
from tests.launch.test_report import Page, write_phase


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two finished runs and one at work, in two folders."""
    folder = tmp_path_factory.mktemp("runs")
    for name, steps, rate, best, finished in (
        ("a/one", 120, "3e-4", 3.0, True),
        ("a/two", 120, "1e-3", 2.0, True),
        ("b/one", 40, "3e-4", 1.0, False),
    ):
        run = folder / name
        run.mkdir(parents=True)
        (run / "job.yaml").write_text(
            f"pretrain:\n  steps: {steps}\n  optimizer: {{rule: {{type: AdamW}}, peak_lr: {rate}, note: '<b>{name}'}}\n  evals: [{{max_rows: 8}}]\n"
        )
        write_phase(
            run / "pretrain", steps=steps, sets=("web", "code"), finished=finished, best=best
        )
    results = folder / "a/two/pretrain/results.json"
    changed = json.loads(results.read_text())
    changed["after"]["eval/web/loss"], changed["after"]["eval/web/accuracy"] = 2.5, 0.9
    results.write_text(json.dumps(changed))
    return [folder / name for name in ("a/one", "a/two", "b/one")]


@pytest.fixture(scope="module")
def html(runs):
    return write_comparison(runs).read_text().replace("<wbr>", "")


def test_a_program_reads_the_numbers_of_the_page(runs, capsys):
    code = meshwright(["report", str(runs[0]), str(runs[2]), "--json"])
    done, at_work = json.loads(capsys.readouterr().out)["runs"]
    assert code == 0 and (done["name"], done["health"]) == ("one", "Recovered")
    (phase,) = done["phases"]
    assert phase["held_out"]["web/loss"]["now"] == pytest.approx(3.02)
    assert phase["last"]["loss/train"]["step"] == phase["steps"] == 120
    # The loss of step 7 is NaN, which is no JSON.
    assert phase["went_wrong"]["loss is not finite"] == 1
    assert at_work["phases"][0]["state"] == "at step 40" and not at_work["phases"][0]["done"]


def row_of(html: str, first: str) -> list[tuple[str, str]]:
    """(classes, text) of the other cells of the row that begins with `first`."""
    return re.findall(
        r'<td(?: class="([^"]*)")?>([^<]*)</td>',
        re.search(rf"<tr><td>{re.escape(first)}</td>(.*?)</tr>", html)[1],
    )


def test_the_page_stands_beside_the_runs_and_needs_nothing_outside_itself(runs, html):
    assert (runs[0].parent.parent / "comparison.html").exists()
    page = Page(html)
    assert all(address.startswith("#") for address in page.addresses) and not re.search(
        r"@import|url\((?!#)", html
    )
    assert (
        len(page.ids) == len(set(page.ids)) and "<b>a/one" not in html and "<b>a/one" in page.text
    )


def test_fields_that_differ_are_listed_and_no_others(html):
    assert [text for _, text in row_of(html, "pretrain.optimizer.peak_lr")] == [
        "0.0003",
        "0.001",
        "0.0003",
    ]
    assert "optimizer.rule.type" not in html and "evals.0.max_rows" not in html


def test_the_best_held_out_number_is_marked_by_its_direction(html):
    assert row_of(html, "web/loss") == [
        ("number", "3.020"),
        ("number best", "2.500"),
        ("number", "–"),
    ]
    assert [classes for classes, _ in row_of(html, "web/accuracy")] == [
        "number",
        "number best",
        "number",
    ]
    assert "best" not in str(row_of(html, "code/loss")), "equal numbers have no best"


def test_curves_of_all_runs_stand_on_one_chart_against_steps_tokens_and_hours(html):
    for way in ("steps", "tokens", "hours"):
        drawn = re.search(
            rf"<figure><figcaption><b>loss/train against {way}</b>.*?</figure>", html, re.DOTALL
        )[0]
        assert len(re.findall(r'<g fill="none"', drawn)) == 3 and "b/one" in drawn


def test_the_axis_of_tokens_ends_at_the_tokens_of_the_longest_run(runs, html):
    most = max(tokens(read_run(run).phases[0]).last for run in runs)
    drawn = re.search(r"<b>loss/train against tokens</b>.*?</figure>", html, re.DOTALL)[0]
    titles = [
        float(title.split(":")[0].replace(",", ""))
        for title in re.findall(r"<rect[^>]*><title>([^<]*)</title>", drawn)
    ]
    assert np.max(titles) == pytest.approx(most, rel=0.01)


def test_names_tell_runs_apart_by_as_little_as_they_can(runs):
    assert names_of([("x", "a", "one"), ("x", "b", "two")]) == ["one", "two"]
    assert names_of([("x", "a", "one"), ("x", "b", "one")]) == ["a/one", "b/one"]
    with pytest.raises(ValueError, match="given twice"):
        names_of([("x", "a"), ("x", "a")])


def test_the_verb_writes_either_page(runs, tmp_path, capsys):
    import argparse

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    for given, title in (
        (runs[:1], "<title>one · Meshwright"),
        (runs, "<title>a/one · a/two · b/one · Meshwright"),
    ):
        assert (
            main(parser.parse_args([*map(str, given), "--out", str(tmp_path / "page.html")])) == 0
        )
        assert (
            title in (tmp_path / "page.html").read_text() and "page.html" in capsys.readouterr().out
        )
    with pytest.raises(FileNotFoundError, match="absent is no folder"):
        write_comparison([runs[0], tmp_path / "absent"])
