"""Stand-ins for a GPU and for the two libraries, so that the benchmark runs where there is neither."""

import time

import torch
from gla_tune.bench.libraries import Library
from gla_tune.bench.machine import Machine, Versions
from gla_tune.bench.stopping import Sample

MACHINE = Machine(
    device="Fake GPU",
    l2_bytes=1000,
    copy_bandwidth=1e12,
    versions=Versions("2.4", "3.0", "0.1", "0.6", "580.1"),
    without_fla=None,
    without_gradients="no backward yet",
)


class FakeStopwatch:
    """Makes the calls, and gives each the time it is told to."""

    def __init__(self, seconds=1e-3):
        self.seconds = seconds
        self.captured_calls = []

    def synchronize(self):
        pass

    def eager(self, call, calls):
        call()
        return Sample(2 * self.seconds, 2 * self.seconds * calls)

    def host(self, call, calls):
        call()
        return Sample(self.seconds / 10, self.seconds * calls)

    def record(self, call, calls):
        self.captured_calls.append(calls)
        call()
        return "recording"

    def replay(self, recording, calls, replays):
        assert recording == "recording"
        return Sample(self.seconds, self.seconds * calls * replays)


def naive(q, k, v, g, scale=None, initial_state=None, output_final_state=False, state_v_first=False, cu_seqlens=None):
    """The definition, token by token, differentiable, in the dtype that is given."""
    group = q.shape[2] // k.shape[2]
    flat = [tensor.flatten(0, 1) for tensor in (q, k, v, g)]
    ends = range(0, flat[0].shape[0] + 1, q.shape[1]) if cu_seqlens is None else cu_seqlens.tolist()
    outputs, states = [], []
    for n in range(len(ends) - 1):
        state = torch.zeros(k.shape[2], k.shape[3], v.shape[3], dtype=q.dtype)
        if initial_state is not None:
            state = initial_state[n].mT if state_v_first else initial_state[n]
        for q_t, k_t, v_t, g_t in zip(*(tensor[ends[n] : ends[n + 1]] for tensor in flat)):
            state = state * g_t.exp()[:, :, None] + k_t[:, :, None] * v_t[:, None]
            per_query_head = state.repeat_interleave(group, 0)
            outputs.append((q_t[:, None] @ per_query_head)[:, 0] * (scale or q.shape[-1] ** -0.5))
        states.append(state.mT if state_v_first else state)
    o = torch.stack(outputs).view(*q.shape[:3], v.shape[3])
    return o, torch.stack(states) if output_final_state else None


def _chunk_gla(q, k, v, g, cu_seqlens_cpu=None, **options):
    o, state = naive(q.float(), k.float(), v.float(), g.float(), **options)
    return o.to(q.dtype), state


def _fused_recurrent_gla(q, k, v, gk=None, **options):
    return _chunk_gla(q, k, v, gk, **options)


def _describe(function, q, k, v, *gates, **options):
    return f"{function.__name__} of {q.shape[2]} query heads"


def fake_library(name, repeats_heads=False):
    return Library(name, _chunk_gla, _fused_recurrent_gla, repeats_heads, _describe)


def hangs(job, send):
    """Work for a child process: a library whose first call never returns."""
    from gla_tune.bench.make_row import empty_row
    from gla_tune.bench.work import Stage

    for task in job.tasks:
        if not task.without_fla:
            send(Stage("first call of fla", "fla"))
            time.sleep(1000)
        send(empty_row(task.case, job.machine, job.commit))


def dies(job, send):
    from gla_tune.bench.work import Stage

    send(Stage("first call of gla_tune", "gla_tune"))
    raise SystemExit(3)


def finishes(job, send):
    from gla_tune.bench.make_row import empty_row

    for task in job.tasks:
        send(empty_row(task.case, job.machine, job.commit))
