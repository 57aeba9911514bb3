"""What is called on a GPU, and with which numbers."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Optional

import torch
import torch.nn.functional as F

import gla_tune

# cu_seqlens: empty sequences first and inside, single tokens, no multiple of a chunk
LENGTHS = [0, 0, 1, 65, 65, 128, 193]
FUNCTIONS = {"chunk": gla_tune.chunk_gla, "recurrent": gla_tune.fused_recurrent_gla}
# The arguments that may require a gradient, as fields of Inputs.
LEARNING = ("q", "k", "v", "g", "initial_state")
VALUE_GATE = "gv"  # and of fused_recurrent_gla this one


@dataclass(frozen=True)
class Case:
    """One call, but for its numbers."""

    function: str = "chunk"
    dtype: torch.dtype = torch.bfloat16
    head_dims: tuple = (64, 64)
    gates: float = 1 / 16  # times logsigmoid
    resets: float = 0.0  # share of gates that are -inf
    state_v_first: bool = False
    packed: bool = False
    group: int = 1
    reverse: bool = False
    value_gate: bool = False
    fp32_gates: bool = False
    loss_scale: float = 1.0  # of the gradients of the outputs

    def __str__(self):
        parts = [self.function, str(self.dtype).rpartition(".")[2], "x".join(map(str, self.head_dims))]
        parts += [
            name for name in ("state_v_first", "packed", "reverse", "value_gate", "fp32_gates") if getattr(self, name)
        ]
        parts += [f"G{self.group}"] if self.group > 1 else []
        parts += [f"gates{self.gates:g}"] if self.gates != 1 / 16 else []
        parts += ["resets"] if self.resets else []
        parts += [f"loss{self.loss_scale:g}"] if self.loss_scale != 1 else []
        return "-".join(parts)


@dataclass
class Inputs:
    """The tensors of a case, by the arguments of its function."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    g: Optional[torch.Tensor]
    gv: Optional[torch.Tensor]
    initial_state: Optional[torch.Tensor]
    cu_seqlens: Optional[torch.Tensor]


def make(case: Case, heads=3, seed=0) -> Inputs:
    generator = torch.Generator("cuda").manual_seed(seed)
    K, V = case.head_dims
    rows = (1, LENGTHS[-1]) if case.packed else (2, 150)
    N = len(LENGTHS) - 1 if case.packed else 2

    def rand(*shape):
        return torch.randn(shape, generator=generator, device="cuda")

    def gate(channels):
        values = F.logsigmoid(rand(*rows, heads, channels)) * case.gates
        values[torch.rand(values.shape, generator=generator, device="cuda") < case.resets] = -torch.inf
        return values.to(torch.float32 if case.fp32_gates else case.dtype)

    state = (N, heads, V, K) if case.state_v_first else (N, heads, K, V)
    return Inputs(
        q=rand(*rows, case.group * heads, K).to(case.dtype),
        k=rand(*rows, heads, K).to(case.dtype),
        v=rand(*rows, heads, V).to(case.dtype),
        g=gate(K),
        gv=gate(V) if case.value_gate else None,
        initial_state=rand(*state),
        cu_seqlens=torch.tensor(LENGTHS, device="cuda") if case.packed else None,
    )


def learning(given: Inputs, names=LEARNING) -> Inputs:
    """The same numbers in tensors of which the named ones require gradients."""
    leaves = {name: getattr(given, name) for name in (*LEARNING, VALUE_GATE)}
    return replace(
        given,
        **{name: x if x is None else x.detach().requires_grad_(name in names) for name, x in leaves.items()},
    )


def arguments(case: Case, given: Inputs) -> dict:
    named = dict(q=given.q, k=given.k, v=given.v, initial_state=given.initial_state, cu_seqlens=given.cu_seqlens)
    named.update(output_final_state=True, state_v_first=case.state_v_first)
    if case.function == "chunk":
        return dict(named, g=given.g)
    return dict(named, gk=given.g, gv=given.gv, reverse=case.reverse)


def recurrence(case: Case, given: Inputs):
    """o and the final states of the recurrence in fp64, sequence by sequence, with gradients."""
    heads = given.k.shape[2]
    ends = LENGTHS if case.packed else [0, given.q.shape[1]]
    outputs, states = [], []
    for row in range(given.q.shape[0]):
        for n, (begin, end) in enumerate(zip(ends, ends[1:])):
            state = given.initial_state[n if case.packed else row].double()
            state = state.mT if case.state_v_first else state
            part = [
                None if x is None else x[row, begin:end].double()
                for x in (given.q, given.k, given.v, given.g, given.gv)
            ]
            q, k, v, gk, gv = part
            output = [v.new_empty(0, q.shape[1], v.shape[2])]
            for t in reversed(range(end - begin)) if case.reverse else range(end - begin):
                state = state * gk[t].exp()[:, :, None]
                if gv is not None:
                    state = state * gv[t].exp()[:, None, :]
                state = state + k[t][:, :, None] * v[t][:, None, :]
                query = q[t].view(heads, case.group, -1) * q.shape[2] ** -0.5
                output.append((query @ state).view(1, -1, v.shape[2]))
            outputs += reversed(output) if case.reverse else output
            states.append(state.mT if case.state_v_first else state)
    return torch.cat(outputs).view(*given.q.shape[:3], -1), torch.stack(states)


def error(found, expected) -> float:
    return ((found.double() - expected).norm() / expected.norm()).item()


def prepare_all(cases, with_gradients: bool = False) -> None:
    """Compiles every kernel of the cases, on all cores."""

    def prepare(case):
        given = learning(make(case), LEARNING if with_gradients else ())
        gla_tune.prepare(FUNCTIONS[case.function], **arguments(case, given))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(prepare, cases))
