"""The benchmark's reference against the definition, and a whole measurement on stand-ins for GPU and libraries."""

import dataclasses

import pytest
import torch
from bench_fakes import MACHINE, FakeStopwatch, fake_library, naive
from gla_tune.bench.accuracy import output_error, state_error
from gla_tune.bench.cases import Selection, cases_of
from gla_tune.bench.clock_guard import ClockGuard
from gla_tune.bench.inputs import InputMaker
from gla_tune.bench.lengths import LogUniform
from gla_tune.bench.machine import why_no_gradients
from gla_tune.bench.make_row import Circumstances, empty_row, measured_row
from gla_tune.bench.measure import Workbench, measure
from gla_tune.bench.operations import OPERATIONS
from gla_tune.bench.reference import CHUNK, reference
from gla_tune.bench.shapes import parse_shape


def case(op, shape, mode, lengths=None, **more):
    return cases_of(Selection([op], [parse_shape(shape)], [mode], lengths=lengths, **more))[0]


def inputs_of(a_case):
    return InputMaker(a_case, "cpu").make()


def exact(inputs):
    q, k, v, g = (tensor.double() for tensor in (inputs.q, inputs.k, inputs.v, inputs.g))
    state = None if inputs.initial_state is None else inputs.initial_state.double()
    return naive(q, k, v, g, None, state, True, inputs.state_v_first, inputs.cu_seqlens)


def relative(x, y):
    return float((x - y).norm() / y.norm())


@pytest.mark.parametrize(("gates", "factor"), [("logsigmoid", 1), ("2*logsigmoid", 2), ("10*logsigmoid", 10)])
def test_gates_are_what_their_names_say(gates, factor):
    drawn, ordinary = (
        inputs_of(case("chunk_forward", "B1_T64_H2_D16", "plain", dtypes=["fp32"], gates=[name])).g
        for name in (gates, "logsigmoid/16")
    )
    assert relative(drawn, 16 * factor * ordinary) < 1e-6


def test_one_gate_in_twenty_resets():
    gates = inputs_of(case("chunk_forward", "B1_T500_H4_D16", "plain", gates=["5%-resets"])).g
    assert 0.04 < float(gates.isinf().float().mean()) < 0.06
    assert float(gates.max()) <= 0


@pytest.mark.parametrize("factor", [1 / 16, 1.0, 10.0])
@pytest.mark.parametrize("tokens", [1, CHUNK, 3 * CHUNK + 5])
@pytest.mark.parametrize("mode", ["plain", "states", "v_first"])
def test_the_reference_is_the_recurrence(factor, tokens, mode):
    a_case = case("chunk_forward", f"B2_T{tokens}_H3_K8_V12", mode)
    inputs = inputs_of(a_case)
    inputs.g = inputs.g * 16 * factor
    o, state = exact(inputs)
    truth = reference(inputs, a_case.lengths)
    assert relative(truth.o, o) < 1e-12 and relative(truth.final_state, state) < 1e-12


@pytest.mark.parametrize("share", [0.1, 1.0])
def test_the_reference_stands_gates_that_reset(share):
    a_case = case("chunk_forward", "B1_T50_H2_D8", "states")
    inputs = inputs_of(a_case)
    torch.manual_seed(1)
    inputs.g = inputs.g.float().masked_fill(torch.rand_like(inputs.g.float()) < share, float("-inf"))
    o, state = exact(inputs)
    truth = reference(inputs, a_case.lengths)
    assert relative(truth.o, o) < 1e-12 and relative(truth.final_state, state) < 1e-12


def test_the_reference_shares_keys_among_the_query_heads_of_a_group():
    a_case = case("chunk_forward", "B2_T21_H2_G3_K8_V4", "states")
    inputs = inputs_of(a_case)
    o, state = exact(inputs)
    truth = reference(inputs, a_case.lengths)
    assert relative(truth.o, o) < 1e-12 and relative(truth.final_state, state) < 1e-12
    repeated = reference(inputs.with_repeated_heads(3), a_case.lengths)
    assert relative(repeated.o, o) < 1e-12


def test_the_reference_keeps_packed_sequences_apart():
    a_case = case("chunk_forward", "H2_K8_V4", "packed", LogUniform(5, 1, 60))
    inputs = inputs_of(a_case)
    o, state = exact(inputs)
    truth = reference(inputs, a_case.lengths)
    assert relative(truth.o, o) < 1e-12 and relative(truth.final_state, state) < 1e-12


def test_errors_name_the_worst_head_and_count_what_is_not_finite():
    truth = torch.ones(1, 10, 2, 4, dtype=torch.float64)
    o = truth.float().clone()
    o[0, :4, 1] += 0.1
    report = output_error(o, truth, (4, 6))
    assert report.worst == pytest.approx(0.1, rel=1e-4)
    assert report.overall == pytest.approx(0.1 * (16 / 80) ** 0.5, rel=1e-4)
    o[0, 0, 0, 0] = float("nan")
    assert output_error(o, truth, (4, 6)).nonfinite == 1
    assert state_error(torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4, dtype=torch.float64)).overall == 1


def workbench(stopwatch):
    return Workbench(stopwatch, ClockGuard(lambda: None), "cpu", MACHINE.l2_bytes, 0.05, lambda stage, library: None)


def row_of(a_case, libraries, stopwatch=None):
    measured = measure(a_case, libraries, workbench(stopwatch or FakeStopwatch()))
    circumstances = Circumstances(None, True, "not checked", 0)
    return measured_row(empty_row(a_case, MACHINE, "0123abc"), MACHINE, measured, circumstances)


@pytest.mark.parametrize(
    ("op", "mode"), [(operation.name, mode.name) for operation in OPERATIONS for mode in operation.modes]
)
@pytest.mark.parametrize("group", [1, 2])
def test_every_operation_is_measured_in_every_mode_on_both_sides(op, mode, group):
    tokens = 1 if op == "recurrent_decode" else 9
    a_case = case(op, f"B2_T{tokens}_H2_G{group}_K8_V4", mode)
    row = row_of(a_case, [fake_library("gla_tune"), fake_library("fla", repeats_heads=True)])
    assert row.gla.graph_ms == pytest.approx(1) and row.fla.ms == pytest.approx(2)
    assert row.gla.host_us == pytest.approx(100) and row.fla.first_call_ms > 0
    assert row.gla.error < 0.004 and row.fla.error < 0.004  # bf16 rounding of o
    assert row.variant.endswith(f"of {2 * group} query heads")
    if a_case.states:
        assert row.gla.state_error < 1e-5 and row.fla.state_error < 1e-5
    else:
        assert row.gla.state_error is None
    assert row.failure is None


def test_gla_tune_alone_leaves_the_other_columns_empty():
    row = row_of(case("chunk_forward", "B1_T9_H1_D8", "plain"), [fake_library("gla_tune")])
    assert row.gla.graph_ms and row.fla.graph_ms is None and row.speedup is None


def test_a_library_that_cannot_be_captured_keeps_its_other_columns():
    class Stopwatch(FakeStopwatch):
        def record(self, call, calls):
            raise RuntimeError("operation not permitted when stream is capturing")

    row = row_of(case("chunk_forward", "B1_T9_H1_D8", "plain"), [fake_library("gla_tune")], Stopwatch())
    assert row.gla.graph_ms is None and row.gla.ms and "not permitted" in row.note


def test_inputs_rotate_past_the_cache_in_graphs_too():
    stopwatch = FakeStopwatch()
    a_case = case("recurrent_decode", "B1_T1_H1_D8", "states")
    row = row_of(a_case, [fake_library("gla_tune")], stopwatch)
    assert row.rotating_bytes > 4 * MACHINE.l2_bytes
    sets = row.rotating_bytes // inputs_of(a_case).rotating_bytes
    assert stopwatch.captured_calls[0] % sets == 0 and stopwatch.captured_calls[0] >= 8


def test_outputs_that_are_not_finite_fail_the_row():
    def broken(*arguments, **options):
        o, state = fake_library("x").chunk_gla(*arguments, **options)
        return o * float("nan"), state

    library = dataclasses.replace(fake_library("gla_tune"), chunk_gla=broken)
    assert "not finite" in row_of(case("chunk_forward", "B1_T9_H1_D8", "plain"), [library]).failure


def test_a_library_without_gradients_says_so():
    def refuses(q, *arguments, **options):
        assert q.requires_grad
        raise NotImplementedError("forward only so far")

    library = dataclasses.replace(fake_library("gla_tune"), chunk_gla=refuses)
    assert why_no_gradients(library, "cpu") == "forward only so far"
    assert why_no_gradients(fake_library("gla_tune"), "cpu") is None
