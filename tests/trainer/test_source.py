"""Laws of batch sources: the global batch is the rows in order on every mesh, and a number says where the
source stands.
"""

import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from data_pipeline.batch import TokenBatch
from data_pipeline.loader import PackedPairs, PackedShards
from data_pipeline.rows.mix import Schedule, Stage
from data_pipeline.rows.packed import PackedRows
from data_pipeline.rows.sequence import RowSequence
from model.sharding import letters_of, named
from tests.data_pipeline.shard_files import append, make
from tests.examples import MESHES, ONE_DEVICE, random_documents, under, write_documents, write_pairs
from trainer.batches.layout import Layout
from trainer.batches.shards import ShardSource, passes, spread
from trainer.batches.source import BatchSource
from trainer.objectives.dpo import ReferencedPairs

L = 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(0)
    write_documents(root / "web", random_documents(rng, rng.integers(2, 20, 31)))
    write_documents(root / "code", random_documents(rng, rng.integers(2, 20, 13)))
    pairs = [random_documents(rng, rng.integers(2, 8, 2)) for _ in range(9)]
    write_pairs(root / "pairs", [(chosen, rejected, 1) for chosen, rejected in pairs])
    return root


def no_policy():
    raise AssertionError("shards ask for no policy")


def settings(batch_size: int = 8) -> PackedShards:
    return PackedShards(
        folder=".", weights={"web": 3.0, "code": 1.0}, seq_len=L, batch_size=batch_size
    )


def layout(batch_size: int = 8, mesh: dict = ONE_DEVICE) -> Layout:
    return Layout(TokenBatch, settings(batch_size).sizes(), under(mesh))


def rows_of(folder: Path, seed: int = 0) -> RowSequence:
    return RowSequence(settings().sources(folder), settings().weights, seed)


def batches(source: ShardSource, n: int) -> list[TokenBatch]:
    return [jax.device_get(source.next(no_policy)) for _ in range(n)]


def assert_equal(found: list[TokenBatch], expected: list[TokenBatch]) -> None:
    for a, b in zip(found, expected, strict=True):
        for name, x, y in zip(TokenBatch._fields, a, b, strict=True):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y, err_msg=name)


@pytest.mark.parametrize("mesh", [ONE_DEVICE, *MESHES], ids=str)
def test_a_batch_is_the_next_rows_of_the_sequence_in_order_and_lies_by_its_field_names(
    mesh, folder
):
    rows, source = rows_of(folder), ShardSource(rows_of(folder), layout(mesh=mesh))
    assert isinstance(source, BatchSource)
    for first in (0, 8):
        batch = source.next(no_policy)
        for name, x in zip(TokenBatch._fields, batch, strict=True):
            assert x.sharding.is_equivalent_to(named(under(mesh), letters_of(name)), x.ndim)
            np.testing.assert_array_equal(
                x, [rows[first + b][name.replace("_B", "_")] for b in range(8)], err_msg=name
            )


def test_the_position_is_json_and_a_new_source_goes_on_from_it(folder):
    source = ShardSource(rows_of(folder), layout())
    batches(source, 3)
    state = json.loads(json.dumps(source.get_state()))
    assert state["rows"] == 24
    expected = batches(source, 2)
    other = ShardSource(rows_of(folder), layout())
    batches(other, 1)
    other.set_state(state)
    assert_equal(batches(other, 2), expected)
    assert source.get_state() == other.get_state() != state


@pytest.mark.parametrize("mesh", [ONE_DEVICE, MESHES[0]], ids=str)
def test_another_batch_size_goes_on_at_the_row_where_the_first_stopped(mesh, folder):
    source, rows = ShardSource(rows_of(folder), layout(8, mesh)), rows_of(folder)
    batches(source, 3)
    larger = ShardSource(rows_of(folder), layout(16, mesh))
    larger.set_state(source.get_state())
    (batch,) = batches(larger, 1)
    np.testing.assert_array_equal(batch.tokens_BL, [rows[24 + b]["tokens_L"] for b in range(16)])
    assert larger.get_state()["rows"] == 40


@pytest.mark.parametrize(
    ("weights", "seed", "difference"),
    [
        ({"web": 3.0, "code": 1.0}, 1, "seed=0 then, 1 now"),
        (
            {"web": 1.0, "code": 1.0},
            0,
            r"from row 0 on 49152 x web/0 \(\w{16}\), 16384 x code/0 .* then, .* 32768 x web/0 .* now",
        ),
        ({"web": 1.0}, 0, r"from row 0 on 65536 x web/0 \(\w{16}\) now"),
    ],
)
def test_a_position_of_other_data_or_of_another_seed_is_refused_with_a_remedy(
    weights, seed, difference, folder
):
    source = ShardSource(rows_of(folder), layout())
    batches(source, 1)
    other = ShardSource(
        RowSequence({name: settings().sources(folder)[name] for name in weights}, weights, seed),
        layout(),
    )
    with pytest.raises(
        ValueError,
        match=rf"rows before the checkpoint has changed: .*{difference}; restore the data, its weights",
    ):
        other.set_state(source.get_state())


def test_after_an_append_the_refusal_names_what_goes_on_with_the_text_there_was(folder, tmp_path):
    grown = shutil.copytree(folder, tmp_path / "grown")
    source = ShardSource(rows_of(grown), layout())
    batches(source, 3)
    append(grown / "web", make(20))
    with pytest.raises(
        ValueError,
        match=r"text was appended since, so add --set PHASE.data.schedule.segments='\{web: 1\}' to go on",
    ):
        ShardSource(rows_of(grown), layout()).set_state(source.get_state())
    schedule = Schedule(segments={"web": 1})
    as_before = RowSequence(settings().sources(grown), settings().weights, 0, schedule)
    resumed = ShardSource(as_before, layout())
    resumed.set_state(source.get_state())
    assert_equal(batches(resumed, 2), batches(source, 2))


def test_what_comes_after_the_position_may_be_another_mixture_and_what_came_before_may_not(folder):
    source = ShardSource(rows_of(folder), layout())
    batches(source, 3)

    def staged(row: int) -> ShardSource:
        schedule = Schedule(stages=(Stage(from_tokens=row * L, weights={"code": 1.0}),))
        return ShardSource(
            RowSequence(settings().sources(folder), settings().weights, 0, schedule), layout()
        )

    later = staged(24)
    later.set_state(source.get_state())
    (batch,) = batches(later, 1)
    assert (batch.source_BL[batch.segments_BL > 0] == 1).all() and later.get_state()[
        "past"
    ] != source.get_state()["past"]
    with pytest.raises(
        ValueError, match="no change of the mixture then, from row 23 on 65536 x code/0"
    ):
        staged(23).set_state(source.get_state())


def test_a_skipped_window_is_left_out_and_remembered(folder):
    source, rows = ShardSource(rows_of(folder), layout()), rows_of(folder)
    batches(source, 1)
    source.skip(12, 28)
    other = ShardSource(rows_of(folder), layout())
    other.set_state(json.loads(json.dumps(source.get_state())))
    (batch,) = batches(source, 1)
    assert_equal(batches(other, 1), [batch])
    np.testing.assert_array_equal(
        batch.tokens_BL, [rows[i]["tokens_L"] for i in (8, 9, 10, 11, 28, 29, 30, 31)]
    )
    assert (
        source.get_state() == other.get_state()
        and source.get_state()["skipped"] == ((12, 28),)
        and source.position.rows == 32
    )
    (batch,) = batches(source, 1)
    np.testing.assert_array_equal(batch.tokens_BL, [rows[32 + b]["tokens_L"] for b in range(8)])


def test_smaller_first_batches_take_the_same_rows_in_the_same_order(folder):
    source, rows = ShardSource(rows_of(folder), layout(16), ramp=((4, 2), (8, 1))), rows_of(folder)
    found = batches(source, 4)
    assert [len(batch.tokens_BL) for batch in found] == [4, 4, 8, 16] and source.position.rows == 32
    np.testing.assert_array_equal(
        np.concatenate([batch.tokens_BL for batch in found]),
        [rows[i]["tokens_L"] for i in range(32)],
    )
    again = ShardSource(rows_of(folder), layout(16), ramp=((4, 2), (8, 1)))
    batches(again, 1)
    state = again.get_state()
    again = ShardSource(rows_of(folder), layout(16), ramp=((4, 2), (8, 1)))
    again.set_state(state)
    assert_equal(batches(again, 3), found[1:])


def test_the_end_of_the_data_is_an_error_only_when_a_batch_is_asked_for(folder):
    rows = RowSequence(
        settings().sources(folder), {"code": 1.0}, 0, Schedule(max_epochs={"code": 2.0})
    )
    source = ShardSource(rows, layout())
    batches(source, rows.n_rows // 8)
    with pytest.raises(
        ValueError,
        match=f"the data ends after {rows.n_rows} rows; lower steps or raise data.schedule.max_epochs",
    ):
        source.next(no_policy)


def test_rows_that_do_not_divide_over_the_mesh_are_refused_with_the_next_multiple():
    with pytest.raises(
        ValueError,
        match=r"data.batch_size=12 does not divide over fsdp = 8 devices; choose a multiple of 8",
    ):
        layout(12, MESHES[0])
    with pytest.raises(
        ValueError,
        match=r"data.batch_size=8 .* fsdp = 4 devices in 4 micro-batches; choose a multiple of 16",
    ):
        Layout(TokenBatch, settings(8).sizes(), under(MESHES[1]), micro_batches=4)
    assert layout(12, MESHES[1]).offsets == tuple(range(12))


@pytest.mark.parametrize("limit", [None, 11, 3])
def test_a_pass_has_every_row_or_an_even_spread_once_and_fills_the_last_batch_with_rows_of_weight_0(
    limit, folder
):
    rows = settings().sources(folder)["web"]
    assert len(rows) % 8
    n, seen = min(len(rows), limit or len(rows)), []
    for numbers, batch in passes(rows, layout(mesh=MESHES[1]), limit):
        batch = jax.device_get(batch)
        for i, number in enumerate(numbers):
            np.testing.assert_array_equal(batch.tokens_BL[i], rows[number]["tokens_L"])
        assert all(not x[len(numbers) :].any() for x in batch)
        seen += numbers
    assert (
        seen == spread(rows, limit)
        and len(set(seen)) == n
        and all(abs(number - i * len(rows) / n) < 1 for i, number in enumerate(seen))
    )


def test_preference_rows_are_placed_with_their_reference_columns(folder):
    data = PackedPairs(
        folder=".", weights={"pairs": 1.0}, seq_len=16, batch_size=4, pairs_per_row=3
    )
    rows = data.sources(folder)["pairs"]
    columns = {
        name: np.arange(len(rows) * 3, dtype=np.float32).reshape(-1, 3) * sign
        for name, sign in (("chosen", 1), ("rejected", -1))
    }
    rows.columns.update({f"reference_{name}_P": x for name, x in columns.items()})
    for numbers, batch in passes(rows, Layout(ReferencedPairs, data.sizes(), under(MESHES[1]))):
        batch = jax.device_get(batch)
        np.testing.assert_array_equal(
            batch.reference_chosen_BP[: len(numbers)], columns["chosen"][numbers]
        )
        np.testing.assert_array_equal(
            batch.reference_rejected_BP[: len(numbers)], columns["rejected"][numbers]
        )
        assert batch.pair_weight_BP.shape == (4, 3)


def test_a_source_of_one_row_folder_is_endless(tmp_path):
    rows = PackedRows(write_documents(tmp_path / "one", [[1, 2, 3]]), seq_len=L)
    source = ShardSource(RowSequence({"one": rows}, {"one": 1.0}, 0), layout())
    assert {tuple(row) for batch in batches(source, 3) for row in batch.tokens_BL} == {
        (1, 2, 0, 0, 0, 0, 0)
    }


TWO = """
import sys
import jax, numpy as np
from pathlib import Path
folder, port, process = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
jax.distributed.initialize(f"127.0.0.1:{port}", 2, process)
from model.mesh import make_mesh
from tests.trainer.test_source import CROSSING, crossing, no_policy
from trainer.batches.layout import Layout
from trainer.batches.shards import ShardSource
out = {}
for name, sizes in CROSSING.items():
    mesh = make_mesh(**sizes)
    rows, data = crossing(folder)
    layout = Layout(data.batch_type, data.sizes(), mesh)
    source = ShardSource(rows, layout)
    out[f"{name}/held"] = np.array([len(layout.offsets), layout.positions.stop - layout.positions.start])
    for number in range(5):
        for field, x in zip(data.batch_type._fields, source.next(no_policy)):
            whole = np.full(x.shape, -1.0)
            for shard in x.addressable_shards:
                whole[shard.index] = shard.data
            out[f"{name}/{number}/{field}"] = whole
np.savez(folder / f"process-{process}.npz", **out)
jax.distributed.shutdown()
"""
CROSSING = {  # the outermost axis of a mesh crosses from one process to the other
    "data": {"data": 2, "fsdp": 2},
    "tensor": {"tensor": 4},
    "context": {"context": 4},
    "stage": {"stage": 2, "fsdp": 2},
    "data and context": {"data": 2, "context": 2},
}


def crossing(folder: Path) -> tuple[RowSequence, PackedShards]:
    """Rows that change their mixture in the third batch, where code has also come to its end."""
    schedule = Schedule(
        stages=(Stage(from_tokens=20 * 8, weights={"more": 1.0, "web": 1.0}),),
        max_epochs={"code": 0.5},
    )
    data = PackedShards(
        folder=".", weights={"web": 1.0, "code": 1.0}, seq_len=8, batch_size=8, schedule=schedule
    )
    return RowSequence(data.sources(folder), data.weights, 0, data.schedule), data


def test_two_processes_hold_the_batches_of_one_whatever_axis_crosses_from_one_to_the_other(
    folder, repository, tmp_path
):
    """The stage axis, which a Run refuses so far, divides no batch: both stages hold all of it."""
    for name in ("web", "code"):
        shutil.copytree(folder / name, tmp_path / name)
    write_documents(tmp_path / "more", random_documents(np.random.default_rng(1), [5, 9, 30, 2, 7]))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    env = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    }
    command = [sys.executable, "-c", TWO, tmp_path, port]
    both = [
        subprocess.Popen(
            [*command, str(i)], cwd=repository, env=env, stderr=subprocess.PIPE, text=True
        )
        for i in range(2)
    ]
    said = [process.communicate(timeout=240)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    held = [np.load(tmp_path / f"process-{i}.npz") for i in range(2)]
    rows, data = crossing(tmp_path)
    assert rows.mixture.legs[1].first < 20 == rows.mixture.legs[2].first
    for name, number in itertools.product(CROSSING, range(5)):
        for field in data.batch_type._fields:
            found = np.maximum(*(process[f"{name}/{number}/{field}"] for process in held))
            expected = [rows[8 * number + b][field.replace("_B", "_")] for b in range(8)]
            np.testing.assert_array_equal(found, expected, err_msg=f"{name} {number} {field}")
    parts = {name: [process[f"{name}/held"].tolist() for process in held] for name in CROSSING}
    assert parts == {
        "data": [[4, 8]] * 2, "tensor": [[8, 8]] * 2, "context": [[8, 4]] * 2, "stage": [[4, 8]] * 2, "data and context": [[4, 8]] * 2
    }  # fmt: skip
