"""The tally of what is lost or left out."""

from data_pipeline.documents.drops import Drops


def test_drops_keep_three_short_examples_a_reason():
    drops = Drops()
    for n in range(5):
        drops.add("web", "junk", f"text {n}\n" * 100)
    table = drops.as_json()
    assert table["dropped"] == {"web": {"junk": 5}}
    assert len(table["examples"]["junk"]) == 3 and all(
        len(text) <= 200 and "\n" not in text for text in table["examples"]["junk"]
    )
