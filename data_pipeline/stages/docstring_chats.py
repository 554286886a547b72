"""Which questions and preference pairs are made of a corpus's docstrings, and how they become token
records.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, NonNegativeInt, PositiveInt

from data_pipeline.chat.format import ChatFormat
from data_pipeline.chat.message import read_messages
from data_pipeline.clean.overlap import HeldOutIndex
from data_pipeline.documents.document import Document, content_id
from data_pipeline.documents.sampling import first_by_key, key_of
from data_pipeline.shards.record import Record
from data_pipeline.stages.docstrings import pairs_from_code, preferences, questions

# {"id", "conversations"}: one conversation, or the chosen and the rejected one
Row = dict[str, Any]


class DocstringChats(BaseModel, frozen=True, extra="forbid", strict=True):
    """At most `n_chats` questions answered by their docstrings and `n_pairs` preference pairs of each side,
    from the code in `source`.

    What has more than `max_tokens` tokens, the two answers of a pair together, is left out.
    """

    VERSION: ClassVar[int] = 1

    source: str
    n_chats: NonNegativeInt
    n_pairs: NonNegativeInt
    max_tokens: PositiveInt

    def rows(
        self,
        documents: Iterable[Document],
        index: HeldOutIndex | None,
        *,
        seed: int,
    ) -> dict[str, tuple[list[Row], int]]:
        """`chat` and `pairs` as (rows, how many were over the limit); the sample is keyed by `seed`."""
        own_documents = (document for document in documents if document.source == self.source)
        docstrings = pairs_from_code(own_documents, index=index)
        chats = [[messages] for messages in questions(docstrings, seed=seed)]
        pairs = []
        for preference in preferences(docstrings, seed=seed):
            chosen = {"role": "assistant", "content": preference.chosen}
            rejected = {"role": "assistant", "content": preference.rejected}
            pairs.append([[*preference.messages, chosen], [*preference.messages, rejected]])
        return {
            "chat": _sampled(chats, self.n_chats, seed),
            "pairs": _sampled(pairs, self.n_pairs, seed),
        }

    def records(
        self, rows: Iterable[Mapping[str, Any]], chat: ChatFormat
    ) -> Iterator[tuple[Record, int]]:
        """Those that fit into `max_tokens`, each with the UTF-8 bytes of its messages."""
        for row in rows:
            conversations = [read_messages(conversation) for conversation in row["conversations"]]
            sequences = tuple(chat.render(messages) for messages in conversations)
            # Both answers of a pair must fit in one row, because the loss compares them.
            if sum(len(sequence.tokens) for sequence in sequences) > self.max_tokens:
                continue
            n_bytes = sum(
                len(part.content.encode())
                for messages in conversations
                for message in messages
                for part in message.parts
            )
            yield Record(row["id"], sequences), n_bytes


def _sampled(conversations: list[list], limit: int, seed: int) -> tuple[list[Row], int]:
    rows = [{"id": content_id(repr(each)), "conversations": each} for each in conversations]
    # keyed by the row's own id: a document more or less does not change which of the others are taken
    sampled_rows = first_by_key(((key_of(seed, row["id"]), 1, row) for row in rows), limit)
    return sampled_rows, len(rows) - len(sampled_rows)
