"""Near-duplicates: found as often as theory says, and nothing else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.clean.near_dedup import NearDedup
from tests.data_pipeline.across import documents, left_of, verdicts_of

FINEWEB = NearDedup(sources=("web",), max_removed_frac=0.99)
N_PAIRS = 400
N_SHINGLES = 120


def pairs(jaccard: float, n: int = N_PAIRS) -> tuple[list[str], list[str]]:
    """Texts of distinct words with their extensions: of n shingles all are in the extension, which has n /
    J.
    """
    generator = np.random.default_rng(int(jaccard * 1000))
    one, other = [], []
    for _ in range(n):
        words = [
            "".join(map(chr, letters))
            for letters in generator.integers(97, 123, (round(N_SHINGLES / jaccard) + 4, 8))
        ]
        one.append(" ".join(words[: N_SHINGLES + 4]))
        other.append(" ".join(words))
    return one, other


def matched(jaccard: float) -> float:
    """Of the pairs, which share a band."""
    one, other = (FINEWEB.keys(texts) for texts in pairs(jaccard))
    return (one == other).any(1).mean()


@pytest.mark.parametrize("jaccard", [0.5, 0.6, 0.7, 0.75, 0.8, 0.85])
def test_pairs_are_found_as_often_as_the_curve_says(jaccard):
    jaccard = N_SHINGLES / round(N_SHINGLES / jaccard)
    expected = 1 - (1 - jaccard**8) ** 14
    assert abs(matched(jaccard) - expected) < 3 * np.sqrt(expected * (1 - expected) / N_PAIRS)


def test_nearly_all_pairs_are_found_from_similarity_point_9_on():
    assert matched(0.9) >= 0.98 and matched(0.95) >= 0.98


def test_documents_that_share_little_are_never_merged(tmp_path):
    one, other = pairs(0.2, 200)
    assert not len(verdicts_of(FINEWEB, one + other, tmp_path)["document"])


def test_planted_near_duplicates_are_found_and_counted_with_the_lowest_kept(tmp_path):
    generator = np.random.default_rng(3)
    one, _ = pairs(0.5, 60)
    planted = []
    for text in one:
        words = text.split()
        words[generator.integers(5, 120)] = "changed"
        planted.append(" ".join(words).upper().replace(" ", ",\n", 10))  # J = 115 / 125 = .92
    left = left_of(FINEWEB, one + planted, tmp_path)
    assert left[:60] == one and left[60:].count(None) >= 59
    found = verdicts_of(FINEWEB, one + planted, tmp_path)
    assert set(found["size"]) == {2} and (found["cluster"] == found["document"] % 60).all()


def test_chains_of_near_duplicates_are_one_cluster(tmp_path):
    words = pairs(0.5, 1)[1][0].split()
    texts = [" ".join(words[i : i + 200]) for i in range(0, 24, 4)]
    found = verdicts_of(FINEWEB, texts, tmp_path)
    assert found["cluster"].tolist() == [0] * 6 and found["size"].tolist() == [6] * 6


def test_case_accents_punctuation_and_numbers_do_not_count():
    keys = FINEWEB.keys(
        [
            "Voilà: 3 cafés, at 12.50 each!\nOn 2024 days of it.",
            "voila 99 cafes at 7.1 each on 1 days of it",
        ]
    )
    assert (keys[0] == keys[1]).all()


@settings(max_examples=25)
@given(st.lists(st.text(st.sampled_from("ab ."), max_size=9), min_size=2, max_size=2))
def test_short_documents_are_equal_exactly_when_their_words_are(texts):
    one, other = (text.replace(".", " ").split()[:4] for text in texts)
    keys = FINEWEB.keys([" ".join(one), " ".join(other)])
    assert (keys[0] == keys[1]).any() == (one == other and bool(one)) or not (one or other)


def test_documents_without_words_are_no_duplicates(tmp_path):
    assert left_of(FINEWEB, ["", "…", "!", ""], tmp_path) == ["", "…", "!", ""]


def test_scripts_without_spaces_are_compared_by_runs_of_characters(tmp_path):
    generator = np.random.default_rng(0)
    characters = [chr(code) for code in generator.integers(0x4E00, 0x9FA5, 400)]
    near = characters[:200] + ["猫"] + characters[201:]
    other = [chr(code) for code in generator.integers(0x4E00, 0x9FA5, 400)]
    assert left_of(FINEWEB, ["".join(characters), "".join(other), "".join(near)], tmp_path)[1:] == [
        "".join(other),
        None,
    ]


def test_keys_are_the_same_in_any_batch_and_pinned():
    texts = [*pairs(0.5, 3)[0], "", "x" * 70_000, "four words are here"]
    whole = FINEWEB.keys(texts)
    assert (whole == np.concatenate([FINEWEB.keys([text]) for text in texts])).all()
    _, signals = FINEWEB.annotate(documents(*texts))
    assert (np.stack([*signals.values()], axis=1) == whole).all() and list(signals) == [
        f"band_{i:02}" for i in range(14)
    ]
    # these keys are on disk beside finished corpora: another value makes old and new ones incomparable
    assert whole[-1, :2].tolist() == [9892743158477578756, 2061031320603521794]
