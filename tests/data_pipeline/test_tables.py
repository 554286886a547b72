"""JSON lines and Parquet: every good row becomes a document, every other a count with its file and row."""

import bz2
import datetime
import gzip
import json
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.documents.columns import Columns
from data_pipeline.documents.document import Document, content_id
from data_pipeline.documents.drops import Drops
from data_pipeline.readers import parquet
from data_pipeline.readers.compressed import Piece
from data_pipeline.readers.hugging_face import HuggingFace
from data_pipeline.readers.jsonl import Jsonl, elements_of, lines_of
from data_pipeline.readers.parquet import Parquet
from tests.data_pipeline.reading import read, read_with_drops
from tests.data_pipeline.table_files import numbered, save_to_disk

COMPRESS = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress, ".bz2": bz2.compress}


ROWS = [
    {
        "text": "One text.\n",
        "meta": {"url": "http://a.org/x?q=1#y", "lang": "en"},
        "licence": "MIT",
        "date": "2020-01-02",
    },
    {
        "text": "Ещё один текст.",
        "meta": {"url": "http://a.org/x?q=2", "lang": "ru"},
        "licence": None,
        "date": None,
    },
]


COLUMNS = Columns(path="meta.url", language="meta.lang", licence="licence", time="date")


DOCUMENTS = [
    Document(
        content_id("One text.\n"),
        "One text.\n",
        "web",
        "http://a.org/x?q=1#y",
        "http://a.org/x",
        "en",
        "MIT",
        "2020-01-02",
    ),
    Document(
        content_id("Ещё один текст."),
        "Ещё один текст.",
        "web",
        "http://a.org/x?q=2",
        "http://a.org/x",
        "ru",
        "",
        "",
    ),
]


def json_lines(rows) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_line_is_a_document_however_the_file_is_compressed(tmp_path, suffix):
    (tmp_path / f"a.jsonl{suffix}").write_bytes(COMPRESS[suffix](json_lines(ROWS)))
    assert read(Jsonl(paths=(str(tmp_path),), columns=COLUMNS), tmp_path) == (DOCUMENTS, {})


def test_json_parquet_and_saved_datasets_of_the_same_rows_give_the_same_documents(tmp_path):
    table = pa.Table.from_pylist(ROWS)
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + json_lines(ROWS).rstrip(b"\n"))
    pq.write_table(table, tmp_path / "a.parquet")
    save_to_disk(tmp_path / "saved", {"train": table})
    readers = (
        Jsonl(paths=(str(tmp_path / "a.json"),), columns=COLUMNS),
        Parquet(paths=(str(tmp_path / "a.parquet"),), columns=COLUMNS),
    )
    for reader in (
        *readers,
        HuggingFace(folder=str(tmp_path / "saved"), split="train", columns=COLUMNS),
    ):
        assert read(reader, tmp_path) == (DOCUMENTS, {})


def test_damaged_lines_are_counted_by_reason_with_their_line(tmp_path):
    lines = [
        b'{"text": "good"}',
        b'{"text": "cut of',
        b"",
        b'{"text": "caf\xe9"}',
        b'{"text": ["no", "text"]}',
        b'{"other": "no text"}',
        b'{"text": " \\n"}',
        b'["no object"]',
        b'{"text": "' + b"long " * 2_000 + b'"}',
        b'{"text": "half a character: \\ud800"}',
        b"[" * 100_000,
        b'{"text": "x", "url": ["a list"]}',
        b'{"text": "x", "url": 17}',
        b'{"text": "last"}',
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    (tmp_path / "b.jsonl").write_bytes(b"\r\n".join([b'{"text": "windows"}', b""]))
    reader = Jsonl(paths=(str(tmp_path),), columns=Columns(path="url"), max_line_bytes=200_000)
    documents, drops = read_with_drops(reader, tmp_path)
    assert [(d.text, d.path) for d in documents][::2] == [
        ("good", "a.jsonl:1"),
        ("x", "17"),
        ("windows", "b.jsonl:1"),
    ]
    assert documents[3] == documents[3]._replace(text="last", path="a.jsonl:14", group="a.jsonl:14")
    reader = reader.model_copy(update={"max_line_bytes": 9_000})
    documents, drops = read_with_drops(reader, tmp_path)
    assert [d.text for d in documents] == ["good", "x", "last", "windows"]
    assert drops.counts["web"] == {
        "row_not_json": 2, "row_not_utf8": 1, "row_without_text": 3, "row_too_large": 2, "row_not_unicode": 1, "row_bad_value": 1
    }  # fmt: skip
    places = {
        reason: [example.split(": ")[0] for example in examples]
        for reason, examples in drops.examples.items()
    }
    assert places == {
        "row_not_json": ["a.jsonl:2", "a.jsonl:8"],
        "row_not_utf8": ["a.jsonl:4"],
        "row_without_text": ["a.jsonl:5", "a.jsonl:6", "a.jsonl:7"],
        "row_too_large": ["a.jsonl:9", "a.jsonl:11"],
        "row_not_unicode": ["a.jsonl:10"],
        "row_bad_value": ["a.jsonl:12"],
    }


LINES = st.lists(st.binary(max_size=9).map(lambda line: line.replace(b"\n", b"")), max_size=9)


@given(lines=LINES, sizes=st.lists(st.integers(1, 9)), most=st.integers(1, 9))
@settings(max_examples=200)
def test_lines_do_not_depend_on_how_the_data_is_cut_into_pieces(lines, sizes, most):
    data, pieces, start = b"".join(line + b"\n" for line in lines), [], 0
    for size in [*sizes, len(data)]:
        pieces.append(Piece(data[start : start + size], 0))
        start += size
    assert list(lines_of(pieces, most)) == [line if len(line) <= most else None for line in lines]


def test_a_line_without_end_is_never_in_memory(tmp_path):
    bomb = gzip.compress(b'{"text": "' + b"long " * (20 << 20) + b'"}\n{"text": "next"}\n')
    (tmp_path / "a.jsonl.gz").write_bytes(bomb)
    tracemalloc.start()
    try:
        documents, counts = read(Jsonl(paths=(str(tmp_path),), max_line_bytes=1 << 20), tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [(d.text, d.path) for d in documents] == [("next", "a.jsonl.gz:2")] and counts == {
        "row_too_large": 1
    }
    assert peak < 30 << 20  # of 100 MiB


def test_a_damaged_compressed_file_is_read_on_and_counted(tmp_path):
    members = [gzip.compress(json_lines([{"text": f"text {n}"}])) for n in range(5)]
    (tmp_path / "a.jsonl.gz").write_bytes(
        b"".join([*members[:2], members[2][:-9], members[3], members[4][:-3]])
    )
    (tmp_path / "b.jsonl.zst").write_bytes(b"no zstd")
    documents, drops = read_with_drops(Jsonl(paths=(str(tmp_path),)), tmp_path)
    assert [d.text for d in documents] == ["text 0", "text 1", "text 3", "text 4"]
    assert drops.counts["web"] == {
        "damaged_gzip_bytes": len(members[2]) - 9 + len(members[4]) - 3,
        "damaged_zstd_bytes": 7,
    }
    start = len(members[0]) + len(members[1])
    assert (
        drops.examples["damaged_gzip_bytes"][0]
        == f"a.jsonl.gz:byte {start}: {len(members[2]) - 9} bytes"
    )


def test_parts_of_a_parquet_file_are_runs_of_row_groups(tmp_path, monkeypatch):
    pq.write_table(
        numbered(1_000),
        tmp_path / "a.parquet",
        row_group_size=100,
        compression="none",
        use_dictionary=False,
    )
    reader = Parquet(paths=(str(tmp_path),), columns=Columns(text="content"))
    whole, counts = read(reader, tmp_path)
    assert [d.text for d in whole] == [f"text {n}" for n in range(1_000)] and counts == {}
    assert whole[999].path == whole[999].group == "a.parquet:1000"
    assert [part.name for part in reader.parts("web", work=tmp_path)] == ["00000/a.parquet#000000"]
    monkeypatch.setattr(parquet, "PART_BYTES", 5_000)
    parts = reader.parts("web", work=tmp_path)
    assert len(parts) == 4 and [p.name for p in parts] == sorted(p.name for p in parts)
    alone = [list(reader.read(part, "web", work=tmp_path, drops=Drops())) for part in parts[::-1]]
    assert [d for part in alone[::-1] for d in part] == whole


def test_a_damaged_row_group_costs_its_rows_and_a_damaged_file_itself(tmp_path):
    pq.write_table(
        numbered(300),
        tmp_path / "a.parquet",
        row_group_size=100,
        write_page_checksum=True,
        use_dictionary=False,
    )
    metadata = pq.read_metadata(tmp_path / "a.parquet").row_group(1).column(0)
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    middle = metadata.data_page_offset + metadata.total_compressed_size // 2
    data[middle : middle + 20] = bytes(255 - b for b in data[middle : middle + 20])
    (tmp_path / "a.parquet").write_bytes(data)
    (tmp_path / "b.parquet").write_bytes(data[:-100])
    (tmp_path / "c.parquet").write_bytes(b"")
    documents, drops = read_with_drops(
        Parquet(paths=(str(tmp_path),), columns=Columns(text="content")), tmp_path
    )
    assert [d.text for d in documents] == [f"text {n}" for n in (*range(100), *range(200, 300))]
    assert drops.counts["web"] == {"damaged_rows": 100, "file_damaged": 2}
    assert drops.examples["damaged_rows"][0].startswith("a.parquet:101 to 200: ")
    assert [example.split(": ")[0] for example in drops.examples["file_damaged"]] == [
        "b.parquet",
        "c.parquet",
    ]


def test_bytes_that_are_no_utf8_cost_their_row(tmp_path):
    offsets = np.array([0, 1, 2, 3], np.int32).tobytes()
    array = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.py_buffer(offsets), pa.py_buffer(b"a\xffb")]
    )
    pq.write_table(pa.table({"text": array}), tmp_path / "a.parquet")
    documents, drops = read_with_drops(Parquet(paths=(str(tmp_path),)), tmp_path)
    assert [d.text for d in documents] == ["a", "b"] and drops.examples["row_not_utf8"] == [
        "a.parquet:2"
    ]


def test_a_column_that_is_not_there_is_one_clear_error(tmp_path):
    pq.write_table(pa.table({"content": ["x"], "meta": [{"url": "y"}]}), tmp_path / "a.parquet")
    for columns, name in (
        (Columns(), "text"),
        (Columns(text="content", path="meta.urls"), "meta.urls"),
    ):
        with pytest.raises(
            ValueError,
            match=rf"sources\.web\.columns names '{name}', which a\.parquet lacks; it has content, meta",
        ):
            read(Parquet(paths=(str(tmp_path),), columns=columns), tmp_path)


def test_timestamps_are_written_in_utc(tmp_path):
    moment = datetime.datetime(2020, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    table = pa.table(
        {
            "text": ["a"],
            "zoned": pa.array([moment], pa.timestamp("us", "Europe/Berlin")),
            "day": [moment.date()],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    times = [
        read(Parquet(paths=(str(tmp_path),), columns=Columns(time=name)), tmp_path)[0][0].time
        for name in ("zoned", "day")
    ]
    assert times == ["2020-01-02T03:04:05Z", "2020-01-02"]


def test_nanoseconds_are_read_and_a_time_out_of_range_costs_its_row(tmp_path):
    times = pa.array([1_577_934_245_000_000_001, None, 2**62], pa.int64()).cast(pa.timestamp("ns"))
    pq.write_table(pa.table({"text": ["a", "b", "c"], "t": times}), tmp_path / "a.parquet")
    documents, counts = read(Parquet(paths=(str(tmp_path),), columns=Columns(time="t")), tmp_path)
    assert [d.time for d in documents] == ["2020-01-02T03:04:05Z", "", "2116-02-20T23:53:38Z"]
    assert counts == {}
    table = pa.table({"text": ["a", "b"], "t": pa.array([0, 2**52], pa.timestamp("ms"))})
    pq.write_table(table, tmp_path / "a.parquet")
    documents, counts = read(Parquet(paths=(str(tmp_path),), columns=Columns(time="t")), tmp_path)
    assert [d.text for d in documents] == ["a"] and counts == {"row_bad_value": 1}


def test_a_file_without_the_columns_among_others_is_counted(tmp_path):
    for n in range(3):
        name = "content" if n else "body"
        pq.write_table(pa.table({name: [f"text {n}"]}), tmp_path / f"{n}.parquet")
    reader = Parquet(paths=(str(tmp_path),), columns=Columns(text="content"))
    documents, counts = read(reader, tmp_path)
    assert [(d.text, d.path) for d in documents] == [
        ("text 1", "1.parquet:1"),
        ("text 2", "2.parquet:1"),
    ]
    assert counts == {"file_without_columns": 1}


def test_many_small_files_are_one_part(tmp_path):
    for n in range(40):
        (tmp_path / f"{n:02}.jsonl").write_text(json.dumps({"text": f"text {n}"}) + "\n")
    reader = Jsonl(paths=(str(tmp_path),))
    assert len(reader.parts("web", work=tmp_path)) == 1
    documents, _ = read(reader, tmp_path)
    assert [d.path for d in documents] == [f"{n:02}.jsonl:1" for n in range(40)]


def test_a_json_array_is_read_like_lines(tmp_path):
    rows = [
        {"text": 'a "quoted" [text], \\"'},
        {"text": "b}", "more": [{"x": [1, 2]}]},
        3,
        {"text": "é"},
    ]
    (tmp_path / "a.json").write_text("\ufeff \n" + json.dumps(rows, indent=1), encoding="utf-8")
    (tmp_path / "b.json").write_text("[]")
    documents, counts = read(Jsonl(paths=(str(tmp_path),)), tmp_path)
    assert [(d.text, d.path) for d in documents] == [
        (rows[0]["text"], "a.json:1"),
        ("b}", "a.json:2"),
        ("é", "a.json:4"),
    ]
    assert counts == {"row_not_json": 1}
    data = (tmp_path / "a.json").read_bytes()
    for size in (1, 2, 3, 7):
        cut = [Piece(data[i : i + size], i) for i in range(0, len(data), size)]
        assert [json.loads(row) for row in elements_of(cut, 1 << 20) if row] == rows
    assert list(elements_of([Piece(data, 0)], 20))[0] is None


def test_of_a_damaged_array_no_row_is_put_together_from_two(tmp_path):
    rows = [{"text": f"row {n} " + "and so on " * n} for n in range(60)]
    data = json.dumps(rows).encode()
    # Members of 100 bytes, which end anywhere in a row.
    members = [gzip.compress(data[i : i + 100]) for i in range(0, len(data), 100)]
    members[50] = members[50][:-12] + bytes(12)
    (tmp_path / "a.json.gz").write_bytes(b"".join(members))
    documents, counts = read(Jsonl(paths=(str(tmp_path),)), tmp_path)
    texts, good = [d.text for d in documents], [row["text"] for row in rows]
    assert [text for text in texts if text not in good] == [] and len(texts) >= 57
    assert counts.pop("damaged_gzip_bytes") > 0 and counts == {"row_not_json": 1}


# Rows as they come from other programs; a place says which row it was.
ODD_LINES = {
    "nul.jsonl": b'{"text": "a\0b"}\n{"text": "\\u0000 escaped"}\n',
    "array_with_mark.json": b'\xef\xbb\xbf\r\n[{"text": "one"},\r\n{"text": "two"}]\r\n',
    "array_unclosed.json": b'[{"text": "one"}, {"text": "tw',
    "empty.jsonl": b"",
    "utf16.jsonl": '{"text": "one"}\n'.encode("utf-16"),
    "behind.jsonl.gz": gzip.compress(b'{"text": "one"}\n') + b"left over",
    "numbers.jsonl": b'{"text": 3}\n[1, 2]\nnull\n\n',
    "nan.jsonl": b'{"text": "one", "score": NaN}\n',
    "huge.jsonl": b'{"text": "one", "n": ' + b"9" * 5000 + b"}\n",
    "no_end.jsonl": b'{"text": "one"}',
}


def test_odd_files_of_rows_are_read_or_counted(tmp_path):
    for name, data in ODD_LINES.items():
        (tmp_path / name).write_bytes(data)
    documents, drops = read_with_drops(Jsonl(paths=(str(tmp_path),)), tmp_path)
    assert {d.path: d.text for d in documents} == {
        "nul.jsonl:2": "\0 escaped",
        "array_with_mark.json:1": "one",
        "array_with_mark.json:2": "two",
        "array_unclosed.json:1": "one",
        "behind.jsonl.gz:1": "one",
        "nan.jsonl:1": "one",
        "no_end.jsonl:1": "one",
    }
    assert drops.counts["web"] == {
        "damaged_gzip_bytes": len(b"left over"),
        "row_not_json": 6,
        "row_not_utf8": 1,
        "row_without_text": 1,
    }
