"""The side-by-side benchmark where there is no GPU: what is asked for, what is written, when it stops."""

import dataclasses
import json

import bad_shares
import bench_fakes
import pytest
import torch
from bench_fakes import MACHINE
from gla_tune.bench import cli, commit, runner
from gla_tune.bench.cases import Selection, cases_of
from gla_tune.bench.clock_guard import PATIENCE, ClockGuard
from gla_tune.bench.errors import UsageError
from gla_tune.bench.fla_compiler import MOST_TOKENS, compile_ahead, share_of, short_case
from gla_tune.bench.floor import floor_bytes
from gla_tune.bench.journal import Journal, read_result, require_same_run, write_result
from gla_tune.bench.lengths import LogUniform, OneLong, parse_lengths
from gla_tune.bench.make_row import empty_row
from gla_tune.bench.rounds import alternate
from gla_tune.bench.row import Columns, row_from_json
from gla_tune.bench.runner import Run, rows_of
from gla_tune.bench.shapes import Shape, parse_shape
from gla_tune.bench.stopping import Sample, StoppingCriterion, StoppingLimits
from gla_tune.bench.table import format_table

UNCHECKED_CLOCK = ClockGuard(lambda: None)


def case(shape="B1_T8_H2_D16", op=None, mode=None, **more):
    return cases_of(Selection([op] if op else [], [parse_shape(shape)], [mode] if mode else [], **more))[0]


def a_row(**changes):
    gla = Columns(ms=0.9, graph_ms=0.6, error=0.002, worst_error=0.003, nonfinite=0, host_us=30.0)
    fla = Columns(ms=2.4, graph_ms=2.3, error=0.0025, worst_error=0.003, nonfinite=0, host_us=540.0)
    row = empty_row(case(), MACHINE, "0123abc")
    return dataclasses.replace(row, **{"gla": gla, "fla": fla, "noise": 0.01, **changes})


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("B1_T8192_H96_K128_V128", Shape(1, 8192, 96, 128, 128)),
        ("B4_T2048_H8_G4_D64", Shape(4, 2048, 8, 64, 64, group=4)),
        ("B8,T2048,H4,K256,V512", Shape(8, 2048, 4, 256, 512)),
        ("D32", Shape(1, 1, 1, 32, 32)),
    ],
)
def test_a_shape_is_read_and_written(text, shape):
    assert parse_shape(text) == shape
    assert parse_shape(str(shape)) == shape


@pytest.mark.parametrize("text", ["", "B1", "K16", "B0_D16", "B1_B2_D16", "X1_D16", "D16_K32", "D1024", "B1_D16 "])
def test_a_shape_that_makes_no_sense_is_refused(text):
    with pytest.raises(UsageError):
        parse_shape(text)


def test_default_cases_are_the_listed_shapes_in_the_default_mode():
    cases = cases_of(Selection())
    assert [c.mode.name for c in cases] == ["plain"] * 16 + ["states"] * 10
    assert sum(c.operation.name == "recurrent_decode" for c in cases) == 6


def test_the_operation_follows_from_the_length():
    names = [case(f"B1_T{tokens}_H1_D16").operation.name for tokens in (1, 64, 65)]
    assert names == ["recurrent_decode", "recurrent_forward", "chunk_forward"]


def test_a_mode_that_no_operation_has_is_refused():
    with pytest.raises(UsageError, match="plain"):
        cases_of(Selection(["recurrent_decode"], modes=["plain"]))


def test_drawn_lengths_repeat_with_the_seed_and_stay_in_their_bounds():
    lengths = parse_lengths("loguniform:64:16:4096")
    assert lengths == LogUniform(64, 16, 4096)
    assert lengths.draw(1) == lengths.draw(1) != lengths.draw(2)
    assert all(16 <= length <= 4096 for length in lengths.draw(1))
    packed = case("B4_T512_H2_D16", lengths=lengths)
    assert packed.mode.packed and packed.shape.batch == 1 and packed.shape.tokens == sum(packed.lengths)


def test_one_long_sequence_stands_somewhere_among_the_short_ones():
    lengths = parse_lengths("onelong:64:256:16384")
    assert lengths == OneLong(64, 256, 16384) and parse_lengths(str(lengths)) == lengths
    places = {lengths.draw(seed).index(16384) for seed in range(20)}
    assert len(places) > 1
    assert lengths.draw(1) == lengths.draw(1) and sorted(lengths.draw(1)) == [256] * 64 + [16384]


@pytest.mark.parametrize(
    "text",
    ["onelong:64:256", "onelong:4:9:8", "loguniform:0:1:2", "loguniform:1:5:2", "uniform:1:2:3", "loguniform:1:2"],
)
def test_lengths_that_make_no_sense_are_refused(text):
    with pytest.raises(UsageError):
        parse_lengths(text)


def test_the_floor_counts_every_input_and_output_once():
    # PEERS.md: 0.333 ms forward and 1.265 ms forward and backward at 3.03 TB/s; decode 0.3584 ms.
    assert floor_bytes(case("B1_T8192_H96_D128")) / 3.03e9 == pytest.approx(0.333, abs=1e-3)
    backward = case("B1_T8192_H96_D128", op="chunk_forward_backward")
    assert floor_bytes(backward) / 3.03e9 == pytest.approx(1.265, abs=5e-3)
    decode = case("B256_T1_H32_D128")
    assert floor_bytes(decode) / 3.03e9 == pytest.approx(0.3584, abs=5e-3)
    state = 2 * 4 * 16 * 16 * 4
    assert floor_bytes(case("B2_T100_H4_D16", mode="states")) - floor_bytes(case("B2_T100_H4_D16")) == 2 * state
    # q and o of 3 query heads, k, v and g of one
    assert floor_bytes(case("B1_T100_H1_G3_K16_V32")) == 100 * 2 * (3 * (16 + 32) + 16 + 16 + 32)


def test_sampling_stops_when_the_median_is_certain():
    criterion = StoppingCriterion(StoppingLimits(budget=100, least_samples=4))
    for _ in range(3):
        criterion.add(Sample(1.0, 0.1))
        assert not criterion.finished()
    criterion.add(Sample(1.0, 0.1))
    assert criterion.finished()
    assert criterion.summary().median == 1.0


def test_sampling_of_noise_stops_when_the_budget_is_spent():
    criterion = StoppingCriterion(StoppingLimits(budget=1.05, least_samples=4))
    count = 0
    while not criterion.finished():
        criterion.add(Sample(1.0 + 7 * count % 11, 0.1))
        count += 1
    assert count == 11
    assert criterion.summary().noise > 0.1


def test_a_discarded_sample_costs_but_does_not_count():
    criterion = StoppingCriterion(StoppingLimits(budget=1))
    criterion.discard(Sample(9.0, 5.0))
    assert not criterion.finished()  # there is nothing to report yet
    criterion.add(Sample(1.0, 0.1))
    assert criterion.finished()
    assert criterion.summary().median == 1.0


def test_both_sides_are_measured_in_turns():
    order = []

    def sampler(name):
        def sample():
            order.append(name)
            return Sample(1.0, 1.0)

        return sample

    alternate([sampler("a"), sampler("b")], StoppingLimits(budget=3), UNCHECKED_CLOCK)
    assert order == ["a", "b"] * 3


def test_rounds_at_a_low_clock_are_thrown_away_until_that_is_the_clock():
    readings = iter([2000, 1500] + [1900] + [1500] * (PATIENCE + 2))
    guard = ClockGuard(lambda: next(readings))
    assert [guard.throttled() for _ in range(3)] == [False, True, False]
    assert [guard.throttled() for _ in range(PATIENCE + 2)] == [True] * PATIENCE + [False, False]
    assert guard.describe() == "1500 MHz"
    assert "not checked" in UNCHECKED_CLOCK.describe()


def test_a_row_has_the_keys_that_readers_expect():
    values = a_row().to_json()
    expected = "op dtype shape gla_ms gla_graph_ms fla_ms fla_graph_ms floor_ms error fla_error device date commit"
    further = (
        "mode gates host_us fla_host_us state_error fla_state_error worst_error noise copy_bandwidth versions "
        "first_call_ms fla_first_call_ms variant"
    )
    assert set(f"{expected} {further}".split()) <= set(values)
    assert values["gla_ms"] == 0.9 and values["fla_graph_ms"] == 2.3 and values["error"] == 0.002
    assert set(values["versions"]) == {"torch", "triton", "gla_tune", "fla", "driver"}
    assert row_from_json(json.loads(json.dumps(values))) == a_row(date=values["date"])


def test_a_result_is_written_whole_and_read_back(tmp_path):
    rows = [a_row(), a_row(failure="broken")]
    write_result(tmp_path / "r.json", rows)
    assert read_result(tmp_path / "r.json") == rows
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_an_interrupted_run_is_kept_and_its_failures_are_tried_again(tmp_path):
    row, journal = a_row(), Journal(tmp_path / "r.json")
    journal.start()
    journal.append(row)
    journal.append(a_row(mode="states", failure="broken"))
    with journal.path.open("a") as file:
        file.write('{"op": "cut o')
    assert Journal(tmp_path / "r.json").rows() == [row]
    with pytest.raises(UsageError, match="--resume"):
        Journal(tmp_path / "r.json").start()
    journal.finish([row])
    assert not journal.path.exists()
    assert Journal(tmp_path / "r.json").rows() == [row]


def test_rows_of_another_commit_or_gpu_are_not_resumed():
    require_same_run([a_row()], MACHINE, "0123abc")
    with pytest.raises(UsageError, match="0123abc"):
        require_same_run([a_row()], MACHINE, "another")
    with pytest.raises(UsageError, match="Other GPU"):
        require_same_run([a_row(device="Other GPU")], MACHINE, "0123abc")


def test_a_copy_without_git_is_told_its_commit(monkeypatch):
    monkeypatch.setattr(commit, "_git", lambda folder, *arguments: None)
    monkeypatch.setenv("GLA_TUNE_COMMIT", "0123abc")
    assert commit.measured_commit() == "0123abc"


def test_a_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "other.json").write_text('{"results": []}')
    with pytest.raises(UsageError, match="rows of this benchmark"):
        read_result(tmp_path / "other.json")


def test_the_table_shows_times_speed_ups_and_what_failed():
    text = format_table([a_row(), a_row(gla=Columns(), fla=Columns(), failure="gave up")])
    assert "3.83" in text and "2.67" in text and "0.00200" in text
    assert "FAILED: gave up" in text


def run_with(work, time_limit=60.0, progress=lambda message: None):
    return Run(MACHINE, "0123abc", 0.1, time_limit, progress, work)


def test_a_shape_whose_fla_hangs_is_measured_without_it():
    messages = []
    # The limit has to cover the start of the process.
    rows = list(rows_of([case()], run_with(bench_fakes.hangs, 10.0, messages.append)))
    assert [row.failure for row in rows] == [None]
    assert any("again without FLA" in message and "not done after 10 s" in message for message in messages)


def test_a_process_that_dies_costs_its_row_and_says_where():
    cases = cases_of(Selection(["chunk_forward"], [parse_shape("B1_T8_H1_D16")], ["plain", "states"]))
    rows = list(rows_of(cases, run_with(bench_fakes.dies)))
    assert [row.failure for row in rows] == ["first call of gla_tune: exited with 3"] * 2


def test_the_rows_of_a_shape_share_a_process():
    cases = cases_of(Selection(["chunk_forward"], [parse_shape("B1_T8_H1_D16")], ["plain", "states"]))
    rows = list(rows_of(cases, run_with(bench_fakes.finishes)))
    assert [row.mode for row in rows] == ["plain", "states"]
    assert not any(row.failure for row in rows)


@pytest.mark.parametrize("one_process, jobs", [(False, 2), (True, 1)])
def test_shapes_share_a_process_on_request(monkeypatch, one_process, jobs):
    sent = []

    def messages_of(work, job, time_limit):
        sent.append(len(job.tasks))
        yield from (empty_row(task.case, MACHINE, None) for task in job.tasks)

    monkeypatch.setattr(runner, "messages_of", messages_of)
    shapes = [parse_shape("B1_T8_H1_D16"), parse_shape("B1_T8_H1_D32")]
    cases = cases_of(Selection(["chunk_forward"], shapes, ["plain", "states"]))
    rows = list(rows_of(cases, dataclasses.replace(run_with(None), one_process=one_process)))
    assert [row.key for row in rows] == [case.key for case in cases]
    assert sent == [len(cases) // jobs] * jobs


def test_gates_and_types_are_rows_of_their_own():
    cases = cases_of(
        Selection(["chunk_forward"], [parse_shape("B1_T8_H1_D16")], (), None, ["bf16", "fp16"], ["logsigmoid"])
    )
    assert [(case.dtype, case.gates) for case in cases] == [("bf16", "logsigmoid"), ("fp16", "logsigmoid")]
    assert [(case.dtype, case.gates) for case in cases_of(Selection(["chunk_forward"], [parse_shape("T8_D16")]))] == [
        ("bf16", "logsigmoid/16")
    ]


@pytest.fixture
def on_a_fake_gpu(monkeypatch):
    """The command with rows that cost nothing; yields the cases that it asked to be measured."""
    measured = []

    def rows(cases, run):
        for a_case in cases:
            measured.append(str(a_case))
            failure = "broken" if a_case.mode.name == "v_first" else None
            yield a_row(**{**vars(empty_row(a_case, MACHINE, run.commit)), "gla": a_row().gla, "failure": failure})

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(cli, "_machine", lambda options, cases: MACHINE)
    monkeypatch.setattr(cli, "rows_of", rows)
    return measured


def test_the_command_writes_its_rows_and_resumes(on_a_fake_gpu, tmp_path, capsys):
    command = ["--json", str(tmp_path / "r.json"), "--op", "chunk_forward", "--shape", "B1_T8_H1_D16"]
    assert cli.main([*command, "--mode", "states"]) == 0
    assert cli.main([*command, "--mode", "plain", "--mode", "states", "--resume"]) == 0
    assert on_a_fake_gpu == [
        f"chunk_forward B1_T8_H1_K16_V16 {mode} bf16 logsigmoid/16" for mode in ("states", "plain")
    ]
    assert [row.mode for row in read_result(tmp_path / "r.json")] == ["plain", "states"]
    assert "Fake GPU" in capsys.readouterr().out


def test_fla_with_gla_tune_inside_is_not_compared(on_a_fake_gpu, monkeypatch, capsys):
    monkeypatch.setenv("GLA_TUNE_PATCH_FLA", "1")
    assert cli.main([]) == 2
    assert "both sides would be gla_tune" in capsys.readouterr().err


def test_a_failed_row_is_written_and_the_exit_code_says_so(on_a_fake_gpu, tmp_path):
    assert cli.main(["--json", str(tmp_path / "r.json"), "--shape", "B1_T8_H1_D16", "--mode", "v_first"]) == 1
    assert [row.failure for row in read_result(tmp_path / "r.json")] == ["broken"]


def test_gradients_are_left_out_by_default_and_refused_on_request(on_a_fake_gpu, capsys):
    assert cli.main(["--quick"]) == 0
    assert [name.split()[0] for name in on_a_fake_gpu] == ["chunk_forward", "recurrent_decode", "recurrent_forward"]
    assert "no backward yet" in capsys.readouterr().err
    assert cli.main(["--op", "chunk_forward_backward"]) == 2
    assert "not available: gla_tune says 'no backward yet'" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_there_is_one_clear_error(capsys):
    assert cli.main([]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and "no CUDA GPU" in printed.err


def test_the_catalogue_needs_no_gpu(capsys):
    assert cli.main(["--list"]) == 0
    assert "B256_T1_H32_K128_V128" in capsys.readouterr().out


def test_a_chart_is_drawn_as_png_and_svg(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: the chart is not tested")
    write_result(tmp_path / "r.json", [a_row(), a_row(op="recurrent_decode", fla=Columns()), a_row(gla=Columns())])
    assert cli.main(["--plot", str(tmp_path / "r.json")]) == 0
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    assert "</svg>" in (tmp_path / "r.svg").read_text()
    assert "r.svg" in capsys.readouterr().out


def test_a_result_without_times_is_not_drawn(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: the chart is not tested")
    write_result(tmp_path / "r.json", [a_row(gla=Columns())])
    assert cli.main(["--plot", str(tmp_path / "r.json")]) == 2
    assert "nothing to draw" in capsys.readouterr().err


@pytest.mark.parametrize(("configs", "count"), [(1, 16), (10, 3), (3, 3), (48, 16)])
def test_processes_share_out_what_fla_tries(configs, count):
    shares = [share_of(range(configs), index, count) for index in range(count)]
    assert all(shares)
    assert {config for share in shares for config in share} == set(range(configs))
    assert max(map(len, shares)) <= -(-configs // count)


def test_what_is_compiled_ahead_has_few_tokens_and_is_the_same_otherwise():
    short = short_case(case("B2_T4096_H3_D16"))
    assert short == dataclasses.replace(
        case("B2_T4096_H3_D16"), shape=Shape(2, MOST_TOKENS, 3, 16, 16), lengths=(MOST_TOKENS, MOST_TOKENS)
    )
    packed = short_case(case("D16", "chunk_forward", "packed", lengths=LogUniform(5, 16, 4096)))
    assert sum(packed.lengths) == packed.shape.tokens and len(packed.lengths) == 5
    assert short_case(case("B2_T8_H2_D16")) == case("B2_T8_H2_D16")


def test_compiling_ahead_outlives_shares_that_fail_or_take_too_long():
    said = []
    compile_ahead([], bad_shares.compile_badly, 4, 5.0, said.append)
    assert said[0] == "compiling FLA's kernels ahead in 4 processes"
    assert "1 failed; 1 not done in time" in said[-1]
