"""How the bad records that reading leaves out are reported: from a process that reads ahead to the one that
trains, and to people.
"""

import json
from collections.abc import Mapping

import numpy as np

from data_pipeline.rows.lay import Row
from data_pipeline.rows.packed import PackedRows

FIELD = "bad_records"


def pack_bad_records(sources: Mapping[str, PackedRows]) -> Row:
    """Bad records seen so far, as a JSON field by which a reading process reports them; no field if none.

    Grain's processes send arrays and nothing else, so the text travels as an array of one string.
    """
    # A copy, because the source's own dict grows while it is read.
    seen = {name: dict(rows.bad_records) for name, rows in sources.items() if rows.bad_records}
    return {FIELD: np.array(json.dumps(seen))} if seen else {}


def take_bad_records(batch: Row, sources: Mapping[str, PackedRows]) -> Row:
    """The batch without the field of `pack_bad_records`, whose reports are added to the sources.

    Raises:
        ValueError: too many of a source's records are bad.
    """
    # the field is missing from nearly every batch
    reported = json.loads(str(batch.get(FIELD, "{}")))
    for name, problems in reported.items():
        # JSON has made strings of the record numbers.
        sources[name].note_bad({int(number): problem for number, problem in problems.items()})
    return {name: x for name, x in batch.items() if name != FIELD}


def bad_records(sources: Mapping[str, PackedRows]) -> dict[str, str]:
    """SOURCE/NUMBER → file, record, document and what is wrong, of all bad records in the order they were
    met.
    """
    problems = {}
    for name, rows in sources.items():
        for number, problem in rows.bad_records.items():
            problems[f"{name}/{number}"] = problem
    return problems
