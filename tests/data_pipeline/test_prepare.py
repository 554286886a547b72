"""Laws of what the data phase writes, on a small real job."""

import json

from data_pipeline.clean.held_out import canonical
from data_pipeline.documents.corpus import clean_text
from data_pipeline.files import read_json_lines
from data_pipeline.shards.shards import Shards
from data_pipeline.tokenizers.tokenizer import Tokenizer
from tests.data_pipeline.small_job import KINDS, MODULES, SOURCES, results


def test_every_shard_verifies_and_names_its_source_and_tokenizer(data):
    tokenizer = Tokenizer(data / "tokenizer.model")
    for side in ("train", "held_out"):
        for kind in KINDS:
            shards = Shards(data / side / kind)
            shards.verify()
            assert len(shards) > 0 and shards.manifest["source"] == kind
            assert shards.manifest["lineage"]["tokenizer"] == tokenizer.fingerprint


def test_read_is_kept_plus_dropped_for_every_source(data):
    found = results(data)
    for kind in KINDS:
        dropped = sum(
            n
            for reason, n in found["dropped"].get(kind, {}).items()
            if not reason.endswith(("_spans", "_lines", "_bytes"))
        )
        assert (
            found["read"][kind]
            == found["kept"][kind]["documents"] + found["held_out"][kind]["documents"] + dropped
        )
    assert found["read"]["code"] == len(MODULES) and found["read"]["books"] == 16
    assert (
        found["dropped"]["books"]["file_undecodable"] == 1
        and found["dropped"]["chat"]["over_n_chat"] > 0
    )
    assert found["kept"]["chat"]["documents"] <= 100


def test_a_document_of_a_shard_decodes_to_its_cleaned_text_between_bos_and_eos(data):
    tokenizer = Tokenizer(data / "tokenizer.model")
    for side in ("train", "held_out"):
        for source in SOURCES:
            texts = {document.id: document.text for document in clean_text(data, side, source)}
            shards = Shards(data / side / source)
            assert shards.manifest["bytes"] == sum(
                len(text.encode()) for text in texts.values()
            ) and len(shards) == len(texts)
            for record in shards.__getitems__(range(len(shards))):
                ((tokens, weight),) = record.sequences
                assert (tokens[0], tokens[-1]) == (tokenizer.bos, tokenizer.eos) and weight.all()
                assert tokenizer.decode(tokens) == texts.pop(record.id)


def test_no_group_is_on_both_sides(data):
    set_aside = json.loads((data / "held_out.json").read_bytes())
    for source in SOURCES:
        train, held_out = (
            {canonical(document.group) for document in clean_text(data, side, source)}
            for side in ("train", "held_out")
        )
        assert train and held_out and held_out <= {canonical(group) for group in set_aside[source]}
        assert not train & {canonical(group) for group in set_aside[source]}


def test_chats_and_pairs_ask_about_the_code_of_their_own_side(data):
    tokenizer = Tokenizer(data / "tokenizer.model")
    set_aside = set(json.loads((data / "held_out.json").read_bytes())["code"])
    for side in ("train", "held_out"):
        (rows,) = (data / "stages" / "chats").glob(f"*/{side}/chat.jsonl")
        for row in read_json_lines(rows):
            asked = {
                module
                for module in MODULES
                if f"`{module}`" in row["conversations"][0][0]["content"]
            }
            asked |= {
                module
                for module in MODULES
                if f"Module: {module}\n" in row["conversations"][0][0]["content"]
            }
            assert asked and bool(asked & set_aside) == (side == "held_out")
        shards = Shards(data / side / "pairs")
        for chosen, rejected in (
            record.sequences for record in shards.__getitems__(range(len(shards)))
        ):
            n = int(chosen.weight.argmax())
            assert (
                chosen.tokens[:n].tolist() == rejected.tokens[:n].tolist()
                and n == rejected.weight.argmax()
            )
            assert tokenizer.decode(chosen.tokens) != tokenizer.decode(rejected.tokens)
            assert len(chosen.tokens) + len(rejected.tokens) <= 200
