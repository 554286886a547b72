"""Web text that every Python installation has: pydoc pages of standard modules, rendered to HTML, kept as a
WARC, read back as one.
"""

import gzip
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel

from data_pipeline.documents.document import Document
from data_pipeline.documents.drops import Drops
from data_pipeline.files import write_bytes
from data_pipeline.readers.part import Part, read_all
from data_pipeline.readers.warc import Warc
from data_pipeline.readers.warc_records import write_record
from data_pipeline.readers.worker import Worker

# modules whose import has no side effect, in every Python since 3.12; one that a build lacks (readline,
# curses, …) is counted and skipped
MODULES = tuple(
    """
    __future__ abc argparse array ast asyncio asyncio.base_events asyncio.events asyncio.exceptions
    asyncio.futures asyncio.locks asyncio.protocols asyncio.queues asyncio.runners asyncio.selector_events
    asyncio.sslproto asyncio.streams asyncio.subprocess asyncio.taskgroups asyncio.tasks asyncio.threads
    asyncio.timeouts asyncio.transports asyncio.unix_events atexit base64 bdb binascii bisect builtins bz2
    cProfile calendar cmath cmd code codecs codeop collections collections.abc colorsys compileall
    concurrent.futures concurrent.futures.process concurrent.futures.thread configparser contextlib
    contextvars copy copyreg csv ctypes ctypes.util curses curses.ascii curses.textpad dataclasses
    datetime dbm dbm.dumb decimal difflib dis doctest email email.base64mime email.charset
    email.contentmanager email.encoders email.errors email.feedparser email.generator email.header
    email.headerregistry email.iterators email.message email.mime.application email.mime.audio
    email.mime.base email.mime.image email.mime.message email.mime.multipart email.mime.text email.parser
    email.policy email.quoprimime email.utils encodings encodings.idna encodings.punycode ensurepip enum
    errno faulthandler fcntl filecmp fileinput fnmatch fractions ftplib functools gc genericpath getopt
    getpass gettext glob graphlib grp gzip hashlib heapq hmac html html.entities html.parser http
    http.client http.cookiejar http.cookies http.server imaplib importlib importlib.abc
    importlib.machinery importlib.metadata importlib.resources importlib.resources.abc importlib.util
    inspect io ipaddress itertools json json.decoder json.encoder json.scanner json.tool keyword linecache
    locale logging logging.config logging.handlers lzma mailbox marshal math mimetypes mmap modulefinder
    multiprocessing multiprocessing.connection multiprocessing.context multiprocessing.dummy
    multiprocessing.heap multiprocessing.managers multiprocessing.pool multiprocessing.process
    multiprocessing.queues multiprocessing.reduction multiprocessing.shared_memory
    multiprocessing.sharedctypes multiprocessing.synchronize multiprocessing.util netrc ntpath nturl2path
    numbers opcode operator optparse os pathlib pdb pickle pickletools pkgutil platform plistlib poplib
    posixpath pprint profile pstats pty pwd py_compile pyclbr pydoc queue quopri random re readline
    reprlib resource rlcompleter runpy sched secrets select selectors shelve shlex shutil signal smtplib
    socket socketserver sqlite3 sqlite3.dump ssl stat statistics string stringprep struct subprocess
    symtable sys sysconfig syslog tabnanny tarfile tempfile termios textwrap threading time timeit token
    tokenize tomllib trace traceback tracemalloc tty types typing unicodedata unittest unittest.async_case
    unittest.case unittest.loader unittest.main unittest.mock unittest.result unittest.runner
    unittest.signals unittest.suite unittest.util urllib urllib.error urllib.parse urllib.request
    urllib.response urllib.robotparser uuid venv warnings wave weakref webbrowser wsgiref wsgiref.handlers
    wsgiref.headers wsgiref.simple_server wsgiref.util wsgiref.validate xml.dom xml.dom.expatbuilder
    xml.dom.minidom xml.dom.pulldom xml.dom.xmlbuilder xml.etree.ElementInclude xml.etree.ElementPath
    xml.etree.ElementTree xml.parsers.expat xml.sax xml.sax.expatreader xml.sax.handler xml.sax.saxutils
    xml.sax.xmlreader xmlrpc.client xmlrpc.server zipapp zipfile zipimport zlib zoneinfo
    """.split()
)
SITE = "http://localhost/pydoc/"  # where `python -m pydoc -b` would serve the page
# Few enough that a module which crashes takes little along, enough to pay for a new interpreter.
MODULES_PER_CHILD = 10
CHILDREN_PER_PART = 2
# a WARC needs one; a fixed one keeps the file a function of Python and of the list
DATE = "2000-01-01T00:00:00Z"


class StdlibDocs(BaseModel, frozen=True, extra="forbid", strict=True):
    """pydoc pages of `modules`.

    Attributes:
        modules: Dotted names; one that cannot be imported or rendered is counted and skipped.
        timeout_s: Processor time for importing and rendering one module, in a child that is killed when it
        takes longer.
    """

    VERSION: ClassVar[int] = 2

    modules: tuple[str, ...] = MODULES
    timeout_s: float = 30.0

    def fingerprint(self) -> str:
        """The version of Python, whose documentation is read."""
        return platform.python_version()

    def parts(self, source: str, *, work: Path) -> list[Part]:
        """A part for a range of names; it has no input but this Python; `detail` is the modules.

        Raises:
            ValueError: No module is named.
        """
        names, size = sorted(set(self.modules)), CHILDREN_PER_PART * MODULES_PER_CHILD
        if not names:
            raise ValueError(
                f"sources.{source}.modules=() names nothing to read; name modules of this Python"
            )
        ranges = [names[start : start + size] for start in range(0, len(names), size)]
        return [Part(f"{i:03d}-{some[0]}", (), " ".join(some)) for i, some in enumerate(ranges)]

    def read(self, part: Part, source: str, *, work: Path, drops: Drops) -> Iterator[Document]:
        """One document a module, in sorted order; path = URL, group = top-level module. The part's WARC
        stays in `work`.
        """
        archive = work / f"{source}-{part.name}.warc.gz"
        records = [
            # mtime=0, else the archive would hold the time of its making.
            gzip.compress(record, 6, mtime=0)
            for record in self._records(part.detail.split(), source, drops)
        ]
        write_bytes(archive, b"".join(records))
        # A module's page is its text: no menus, and lists of links that tell what a module is made of.
        pages = Warc(paths=(str(archive),), content="all")
        for document in read_all(pages, source, work=work, drops=drops):
            module = document.path.removeprefix(SITE).removesuffix(".html")
            yield document._replace(group=module.split(".")[0], time="")

    def _records(self, names: list[str], source: str, drops: Drops) -> Iterator[bytes]:
        yield server_information()
        for start in range(0, len(names), MODULES_PER_CHILD):
            some = names[start : start + MODULES_PER_CHILD]
            # A page lists subclasses, so it shows what else its process imported: a fixed number of modules
            # to a child, in sorted order, keeps the pages a function of the list.
            worker = Worker("data_pipeline.readers.render:render")
            try:
                answers = worker.run([name.encode() for name in some], timeout_s=self.timeout_s)
            finally:
                worker.close()
            for name, answer in zip(some, answers, strict=True):
                if answer.error:
                    drops.add(source, "module_not_rendered", f"{name}: {answer.error}")
                else:
                    yield write_record(url=f"{SITE}{name}.html", html=answer.data, date=DATE)


def server_information() -> bytes:
    """The archive's first record: what made it."""
    software = f"software: pydoc of Python {platform.python_version()}\r\n"
    block = f"{software}format: WARC file version 1.1\r\n".encode()
    # The standard demands an id; a random one would change the archive each time.
    record_id = "<urn:uuid:00000000-0000-4000-8000-000000000000>"
    head = (
        f"WARC/1.1\r\nWARC-Type: warcinfo\r\nWARC-Date: {DATE}\r\nWARC-Record-ID: {record_id}\r\n"
    )
    return (
        f"{head}Content-Type: application/warc-fields\r\nContent-Length: {len(block)}\r\n\r\n".encode()
        + block
        + b"\r\n\r\n"
    )
