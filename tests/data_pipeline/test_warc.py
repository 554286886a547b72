"""WARC and WET: every sound record becomes a document, damage costs the record or member it lies in, and is
counted with its place.
"""

import gzip

import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_pipeline.readers import compressed, warc_records
from data_pipeline.readers.compressed import DICTIONARY, pieces
from data_pipeline.readers.warc import Warc
from data_pipeline.readers.warc_records import Records
from tests.data_pipeline.reading import (
    SENTENCE,
    numbers,
    read,
    read_with_drops,
    record,
    warc_record,
)

COMPRESS = {
    ".warc": bytes,
    ".warc.gz": gzip.compress,
    ".warc.zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}
EACH_COMPRESSION = pytest.mark.parametrize("suffix", [".warc.gz", ".warc.zst"])


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("records_a_member", [1, 3, 7])
def test_a_sound_warc_gives_each_page_once_in_order(tmp_path, suffix, records_a_member):
    groups = [range(7)[start : start + records_a_member] for start in range(0, 7, records_a_member)]
    (tmp_path / f"a{suffix}").write_bytes(
        b"".join(COMPRESS[suffix](b"".join(map(record, group))) for group in groups)
    )
    documents, counts = read(Warc(paths=(str(tmp_path),)), tmp_path)
    assert numbers(documents) == list(range(7)) and counts == {}
    assert [d.text.strip() for d in documents] == [SENTENCE.format(n=n) for n in range(7)]
    assert {d.group for d in documents} == {f"http://example.org/{n}" for n in range(7)}
    assert {(d.time, d.language) for d in documents} == {("2020-01-01T00:00:00Z", "")}


def test_small_files_share_a_part_and_are_read_in_order(tmp_path):
    for name, ns in (("b/c.warc", (0, 1)), ("a.warc.gz", (2,)), ("b.warc", (3, 4))):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        data = b"".join(map(record, ns))
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    reader = Warc(paths=(str(tmp_path / "b.warc"), str(tmp_path)))
    names = [part.name for part in reader.parts("web", work=tmp_path)]
    assert names == ["00000/b.warc", "00001/a.warc.gz"]
    assert numbers(read(reader, tmp_path)[0]) == [3, 4, 2, 3, 4, 0, 1]


def test_conversion_records_of_wet_files_are_read_as_they_are(tmp_path):
    texts = [
        "Plain text, as it was converted.\n  <b>No tag</b> is touched.\n",
        "Ein anderer Text: größer.\n",
    ]
    blocks = [
        warc_record(n, "conversion", "text/plain", text.encode()) for n, text in enumerate(texts)
    ]
    bad = [
        warc_record(2, "conversion", "text/plain", b"caf\xe9"),
        warc_record(3, "metadata", "text/plain", b"x: y"),
    ]
    (tmp_path / "a.warc.wet.gz").write_bytes(b"".join(map(gzip.compress, blocks + bad)))
    documents, counts = read(Warc(paths=(str(tmp_path),)), tmp_path)
    assert [d.text for d in documents] == texts and counts == {"page_not_utf8": 1}


def test_a_zstd_dictionary_at_the_start_is_used_compressed_or_not(tmp_path):
    trained = zstandard.train_dictionary(2_000, [record(n) for n in range(300)])
    compress = zstandard.ZstdCompressor(dict_data=trained, write_checksum=True).compress
    for name, dictionary in (
        ("raw", trained.as_bytes()),
        ("packed", zstandard.compress(trained.as_bytes())),
    ):
        head = DICTIONARY + len(dictionary).to_bytes(4, "little") + dictionary
        (tmp_path / f"{name}.warc.zst").write_bytes(
            head + b"".join(compress(record(n)) for n in range(4))
        )
    documents, counts = read(Warc(paths=(str(tmp_path),)), tmp_path)
    assert numbers(documents) == [0, 1, 2, 3] * 2 and counts == {}


@EACH_COMPRESSION
def test_a_truncated_archive_loses_only_the_record_it_breaks_off_in(tmp_path, suffix):
    members = [COMPRESS[suffix](record(n)) for n in range(6)]
    (tmp_path / f"a{suffix}").write_bytes(b"".join(members)[: -len(members[5]) // 2])
    documents, drops = read_with_drops(Warc(paths=(str(tmp_path),)), tmp_path)
    reason = f"damaged_{'gzip' if suffix.endswith('gz') else 'zstd'}_bytes"
    assert numbers(documents) == list(range(5)) and drops.counts["web"][reason] > 0
    assert drops.examples[reason][0].startswith(f"a{suffix}:{sum(map(len, members[:5]))}: ")


@EACH_COMPRESSION
@settings(max_examples=40)
@given(
    damaged=st.sets(st.integers(0, 8), min_size=1),
    at=st.floats(0, 1, exclude_max=True),
    junk=st.binary(min_size=1, max_size=40),
)
def test_damage_in_members_costs_those_members_and_no_other(suffix, damaged, at, junk):
    members = [
        COMPRESS[suffix](b"%d " % n + bytes(range(65, 91)) * 5 + b"%d" % (n * 7919))
        for n in range(9)
    ]
    broken = list(members)
    for n in damaged:
        start = int(at * len(members[n]))
        broken[n] = (
            members[n][:start]
            + bytes(255 - b for b in members[n][start : start + len(junk)])
            + members[n][start + len(junk) :]
        )
    broken.insert(5, junk)
    lost = []
    found = list(pieces(b"".join(broken), f"a{suffix}", lambda *what: lost.append(what)))
    assert set(range(9)) - damaged <= {int(piece.data.split()[0]) for piece in found}
    # zlib and zstd cannot see damage to the few header bytes that say nothing of the data
    assert sum(n_bytes for _, _, n_bytes in lost) <= sum(
        len(broken[n if n < 5 else n + 1]) for n in damaged
    ) + len(junk)
    assert sum(n_bytes for _, _, n_bytes in lost) >= len(junk)


@EACH_COMPRESSION
def test_an_archive_compressed_as_a_whole_is_read_up_to_the_damage(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(compressed, "PIECE_BYTES", 1 << 16)
    data = bytearray(
        COMPRESS[suffix](
            b"".join(record(n, f"<p>{(n + 10**9) ** 9} {n}</p>".encode()) for n in range(2_000))
        )
    )
    middle = len(data) // 2
    data[middle : middle + 50] = bytes(50)
    (tmp_path / f"a{suffix}").write_bytes(data)
    documents, counts = read(Warc(paths=(str(tmp_path),)), tmp_path)
    found = numbers(documents)
    assert found[:500] == list(range(500)) and len(found) < 1_900 and sum(counts.values()) > 0


@given(sizes=st.lists(st.integers(1, 3_000), min_size=1))
@example([436, 1])  # a piece ends just before the line end of a damaged stretch
@example([1268, 1])  # a piece ends where the length of a cut record says that it ends
@settings(max_examples=30)
def test_records_do_not_depend_on_how_the_data_is_cut_into_pieces(sizes):
    wrong = record(4).replace(b"Content-Length: 1", b"Content-Length: 9")
    data = b"".join([record(0), b"junk\r\n", record(1), record(2)[:-30], record(3), wrong])
    lost, starts, start = [], [], 0
    for size in sizes:
        starts.append(start)
        start += size
    cuts = [
        compressed.Piece(data[a:b], a, flat=True)
        for a, b in zip(starts, [*starts[1:], len(data)], strict=True)
        if a < len(data)
    ]
    found = list(Records(lambda *what: lost.append(what)).of(cuts))
    assert [(f.offset, f.data) for f in found] == [(data.find(f.data), f.data) for f in found]
    assert [f.data for f in found] == [record(0)[:-4], record(1)[:-4], record(3)[:-4]]
    between = sum(len(f.data) + 4 for f in found)
    assert between <= len(data) and sum(n for _, _, n in lost) + between == len(data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda parts: [parts[0], b"junk between\r\nrecords\r\n", *parts[1:]],
        lambda parts: [b"junk first\r\n", *parts],
        lambda parts: [*parts, parts[0][:-30]],
        lambda parts: [
            parts[0],
            record(9).replace(b"Content-Length: 1", b"Content-Length: 9"),
            *parts[1:],
        ],
        lambda parts: [
            parts[0],
            record(9).replace(b"Content-Length: 1", b"Content-Length: 99999999991"),
            *parts[1:],
        ],
        lambda parts: [parts[0], b"WARC/1.1\r\nWARC-Type: response\r\n", *parts[1:]],
    ],
    ids=["junk-between", "junk-first", "cut-off", "wrong-length", "huge-length", "half-a-header"],
)
def test_damage_in_an_uncompressed_archive_costs_no_other_record(tmp_path, damage):
    (tmp_path / "a.warc").write_bytes(b"".join(damage([record(n) for n in range(4)])))
    documents, counts = read(Warc(paths=(str(tmp_path),)), tmp_path)
    assert numbers(documents) == [0, 1, 2, 3]
    assert counts.get("damaged_warc_bytes", 0) + counts.get("oversized_record_bytes", 0) > 0


def test_records_that_are_no_good_page_are_counted_by_reason_with_their_place(tmp_path):
    pages = [
        record(0),
        record(1, status="404 Not Found"),
        record(2, b"%PDF-1.4", kind="application/pdf"),
        record(3, b"<p>" + b"x " * 3_000),
        record(4, b"<html><body></body></html>"),
        record(5, b"no gzip", headers="Content-Encoding: gzip\r\n"),
        record(
            6,
            gzip.compress(b"<p>A page that was sent compressed, as many are.</p>"),
            headers="Content-Encoding: gzip\r\n",
        ),
        record(
            7, gzip.compress(b"<p>" + b"bomb " * 1_000_000), headers="Content-Encoding: gzip\r\n"
        ),
    ]
    (tmp_path / "a.warc").write_bytes(b"".join(pages))
    documents, drops = read_with_drops(Warc(paths=(str(tmp_path),), max_page_bytes=4_000), tmp_path)
    assert numbers(documents) == [0, 6]
    assert drops.counts["web"] == {
        "page_http_status": 1,
        "page_too_large": 2,
        "page_without_text": 1,
        "page_undecodable": 1,
    }
    assert drops.examples["page_http_status"] == [
        f"a.warc:{len(pages[0])}: 404: http://example.org/1?q=1"
    ]


@EACH_COMPRESSION
def test_a_bomb_is_given_up_and_the_next_member_read(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(compressed, "MEMBER_BYTES", 1 << 20)
    bombs = [
        bytes(50 << 20),
        b"WARC/1.1\r\nWARC-Type: response\r\nContent-Length: 60000000000\r\n\r\n" + bytes(50 << 20),
    ]
    members = [record(0), bombs[0], record(1), bombs[1], record(2)]
    (tmp_path / f"a{suffix}").write_bytes(b"".join(map(COMPRESS[suffix], members)))
    documents, counts = read(Warc(paths=(str(tmp_path),)), tmp_path)
    assert numbers(documents) == [0, 1, 2] and counts["oversized_member_bytes"] > 0


def test_a_record_that_is_no_page_for_its_size_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(warc_records, "RECORD_BYTES", 10_000)
    film = record(1, bytes(3 << 20), kind="video/mp4")
    (tmp_path / "a.warc").write_bytes(record(0) + film + record(2))
    documents, counts = read(Warc(paths=(str(tmp_path),)), tmp_path)
    assert numbers(documents) == [0, 2] and counts == {"oversized_record_bytes": len(film)}


@pytest.mark.parametrize(
    "content",
    [b"", b"\x1f\x8b\x08broken from the start", b"plain text, no archive" * 50],
    ids=["empty", "broken", "text"],
)
@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_file_without_any_record_is_counted_and_its_neighbours_are_read(
    tmp_path, suffix, content
):
    (tmp_path / f"a{suffix}").write_bytes(content)
    (tmp_path / "b.warc").write_bytes(record(0))
    documents, drops = read_with_drops(Warc(paths=(str(tmp_path),)), tmp_path)
    assert numbers(documents) == [0] and drops.counts["web"]["file_without_record"] == 1
    assert drops.examples["file_without_record"] == [f"a{suffix}"]
    assert sum(n for reason, n in drops.counts["web"].items() if reason.endswith("_bytes")) == len(
        content
    )


def test_a_missing_or_empty_source_is_one_clear_error(tmp_path):
    (tmp_path / "empty").mkdir()
    for paths, error, sentence in (
        (
            (str(tmp_path / "nowhere"),),
            FileNotFoundError,
            r"sources\.mine\.paths='.*nowhere' does not exist; name an existing",
        ),
        (
            (str(tmp_path / "empty"),),
            ValueError,
            r"sources\.mine\.paths='.*empty' holds no \.warc.* file; name a folder that does",
        ),
        ((), ValueError, r"sources\.mine\.paths=\(\) names nothing to read; name"),
    ):
        with pytest.raises(error, match=sentence):
            Warc(paths=paths).parts("mine", work=tmp_path)
