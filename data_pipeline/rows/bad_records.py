"""How bad records that reading leaves out are told: from a process that reads ahead to the one that trains,
and to people.
"""

import json
from collections.abc import Mapping

import numpy as np

from data_pipeline.rows.packed import PackedRows, Row

TOLD = "bad_records"


def told(sources: Mapping[str, PackedRows]) -> Row:
    """What was met so far, as a field of a host's batch; no field where all is well."""
    met = {name: dict(rows.bad_records) for name, rows in sources.items() if rows.bad_records}
    return {TOLD: np.array(json.dumps(met))} if met else {}


def heard(batch: Row, sources: Mapping[str, PackedRows]) -> Row:
    """The batch without that field, of which the sources know now.

    Raises:
        ValueError: too many of a source's records are bad.
    """
    for name, bad in json.loads(str(batch.get(TOLD, "{}"))).items():
        sources[name].note_bad({int(number): said for number, said in bad.items()})
    return {name: x for name, x in batch.items() if name != TOLD}


def bad_records(sources: Mapping[str, PackedRows]) -> dict[str, str]:
    """SOURCE/NUMBER → file, record, document and what is wrong with it, of all that were met, in the order
    of meeting them.
    """
    return {
        f"{name}/{number}": said
        for name, rows in sources.items()
        for number, said in rows.bad_records.items()
    }
