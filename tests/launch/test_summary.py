"""The tables at the end of a run fit a screen, and speak of trouble only when there was some."""

from launch.terminal.console import Console
from launch.terminal.summary import print_summary

SUMMARY = {"steps": 100, "seconds": 50.0, "tokens_per_s": 1234.0, "mfu": 0.25}


def printed(capsys, results) -> str:
    print_summary(Console(), results)
    return capsys.readouterr().out


def test_a_calm_run_has_no_column_of_trouble(capsys):
    text = printed(
        capsys,
        {"a": {"summary": SUMMARY}, "b": {"summary": {**SUMMARY, "skipped": 0.0, "goodput": 1.0}}},
    )
    assert "25.0%" in text and not any(word in text for word in ("goodput", "skipped", "rollbacks"))


def test_trouble_of_one_phase_is_shown_for_all(capsys):
    text = printed(
        capsys,
        {
            "a": {"summary": SUMMARY},
            "b": {"summary": {**SUMMARY, "skipped": 3.0, "goodput": 0.875}},
        },
    )
    assert "goodput" in text and "skipped" in text and "rollbacks" not in text
    assert text.split("MFU", 1)[1].split()[:2] == ["goodput", "skipped"]
    assert ["25.0%", "100.0%", "0"] == text.split("\n a ")[1].split()[3:6] and [
        "87.5%",
        "3",
    ] == text.split("\n b ")[1].split()[4:6]


def test_of_many_held_out_sets_their_mean_is_shown(capsys):
    sets = {
        f"{name}/{metric}": 2.0
        for name in ("macro", *"abcdefgh")
        for metric in ("loss", "accuracy")
    }
    assert (
        "macro/loss" in (text := printed(capsys, {"p": {"before": sets, "after": sets}}))
        and "a/loss" not in text
    )
    few = {name: value for name, value in sets.items() if name[0] in "ab"}
    assert "a/loss" in printed(capsys, {"p": {"before": few, "after": few}})


def test_a_reader_is_told_what_to_look_at_in_the_metrics_that_are_there(capsys):
    text = printed(capsys, {"a": {"before": {}, "after": {"web/bits_per_byte": 2.0}}})
    assert "What to look at:\n  bits_per_byte falls" in text and "rewards" not in text
    assert "share of pairs" in printed(capsys, {"a": {"after": {"pairs/rewards/accuracies": 0.5}}})
    assert "What to look at" not in printed(capsys, {"a": {"after": {"other": 0.5}}})


def test_samples_stand_under_their_phase_after_a_line_that_says_what_they_are(capsys):
    sample = {"prompt": "Why?", "text": "Because\nof this."}
    text = printed(capsys, {"sft": {"after": {}, "samples": [sample] * 3}})
    assert text.count("  sft: Why? → Because of this.\n") == 2
    assert text.index("What the model writes") < text.index("sft:")
