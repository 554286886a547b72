"""The stages from raw bytes to text."""

import gzip
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from data_pipeline.documents.drops import Drops
from data_pipeline.readers.extract import extract, request
from data_pipeline.readers.pages import documents
from data_pipeline.readers.warc import pages_of
from launch.bench.data.sample import MAX_PAGE_BYTES, Sample, Stage


def raw_stages(taken: Sample, work: Path) -> list[Stage]:
    """Stages, each after its bound; amounts are MB of HTML."""
    mb = taken.html_bytes / 1e6
    # Built outside the timed work.
    requests = [request(page.data, page.charset, "main") for page in taken.pages]

    def read() -> None:
        for file in taken.files:
            exhaust(
                pages_of(
                    str(file), file.name, MAX_PAGE_BYTES, work=work, source="web", drops=Drops()
                )
            )

    def in_child() -> None:
        exhaust(documents(taken.pages, content="main", timeout_s=5.0, source="web", drops=Drops()))

    def html(name: str, work: Callable[[], Any], bound: str = "", note: str = "") -> Stage:
        return Stage(name, mb, "MB of HTML", work, bound, note)

    def gunzip() -> None:
        for file in taken.files:
            # Each record of a WARC file is a gzip member, so reading cannot be faster than zlib.
            gzip.decompress(file.read_bytes())

    def cut() -> None:
        for page in taken.pages:
            # The least that a parser must do is to find where tags begin.
            page.data.split(b"<")

    return [
        html("gunzip", gunzip, note="zlib, the same files"),
        html("cut at <", cut, note="bytes.split"),
        html("WARC read", read, "gunzip"),
        html("HTML extraction", lambda: [extract(each) for each in requests], "cut at <"),
        html("the same, in a child", in_child, "cut at <"),
    ]


def exhaust(items: Iterable[Any]) -> None:
    """Consume an iterator, for the work that making its items takes."""
    for _ in items:
        pass
