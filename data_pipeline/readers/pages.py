"""Pages on their way to documents: extracted in this process's one child, in batches, in order; what gives
no text is counted.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from data_pipeline.documents.document import Document, content_id
from data_pipeline.documents.drops import Drops
from data_pipeline.readers.extract import request
from data_pipeline.readers.worker import Answer, kept_worker

BATCH_BYTES = 1 << 20  # enough to keep the child busy, few enough to stream
HANDLER = "data_pipeline.readers.extract:extract"
# The forms of a WARC-Date, ISO 8601 in UTC.
UTC = re.compile(r"\d{4}(-\d\d(-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?Z)?)?")
# Of a page's text: without menus, footers and other boilerplate, or with all of it.
Content = Literal["main", "all"]


class Page(NamedTuple):
    """One page as it was found; `place` is its file and offset, `data` HTML, or the UTF-8 text when
    `is_text`.
    """

    place: str
    path: str
    group: str
    data: bytes
    charset: str | None = None
    time: str = ""
    is_text: bool = False


def documents(
    pages: Iterable[Page], *, content: Content, timeout_s: float, source: str, drops: Drops
) -> Iterator[Document]:
    """One document for each page with text.

    Args:
        pages: In order.
        content: Which text of a page.
        timeout_s: Processor time for one page.
        source: Name in the config.
        drops: Takes `page_timeout`, `page_crash`, `page_too_deep`, `page_not_extracted`, `page_not_utf8`
        and `page_without_text`.
    """
    for batch in batches_of(pages):
        # One call for a batch: a round trip to the child for each page would cost more than small
        # pages do.
        wanted = [request(page.data, page.charset, content) for page in batch if not page.is_text]
        # Texts need no extraction; the child answers for the other pages in their order.
        answers = iter(kept_worker(HANDLER).run(wanted, timeout_s=timeout_s) if wanted else ())
        for page in batch:
            text, lost = decoded(page) if page.is_text else answered(next(answers))
            if lost or not text.strip():
                drops.add(source, lost or "page_without_text", f"{page.place}: {page.path}")
            else:
                yield Document(
                    content_id(text), text, source, page.path, page.group, time=page.time
                )


def batches_of(pages: Iterable[Page]) -> Iterator[list[Page]]:
    """Pages in batches of about `BATCH_BYTES`."""
    batch, n_bytes = [], 0
    for page in pages:
        batch.append(page)
        n_bytes += len(page.data)
        if n_bytes >= BATCH_BYTES:
            yield batch
            batch, n_bytes = [], 0
    if batch:
        yield batch


def decoded(page: Page) -> tuple[str, str]:
    """The text of a page that is text already, and why it was lost."""
    try:
        return page.data.decode(), ""
    except UnicodeDecodeError:
        return "", "page_not_utf8"


def answered(answer: Answer) -> tuple[str, str]:
    """The text that the child gave, and why it gave none."""
    known = {
        "": "",
        "timeout": "page_timeout",
        "crash": "page_crash",
        "ValueError: too_deep": "page_too_deep",
    }
    return answer.data.decode(), known.get(answer.error, "page_not_extracted")


def utc(date: str) -> str:
    """A WARC-Date as it is; "" when it is none."""
    return date if UTC.fullmatch(date) else ""
