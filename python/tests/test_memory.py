"""Where outputs, gradients and workspaces come from."""

import pytest
import torch

from gla_tune import _memory


@pytest.mark.parametrize("sizes", [(2, 8, 4, 16), (1, 1, 1, 1), (0, 8, 4, 16), (2, 0, 4, 16), (64,), (0,)])
@pytest.mark.parametrize("without_dispatcher", [False, True])
def test_a_layout_is_that_of_a_new_tensor(monkeypatch, sizes, without_dispatcher):
    guards = torch._C._dynamo.guards
    monkeypatch.setattr(_memory, "_empty_strided", guards._empty_strided_cpu if without_dispatcher else None)
    monkeypatch.setattr(_memory, "_current_device", lambda: -1)
    found = _memory.allocator(torch.device("cpu"), -1)(*_memory.contiguous(sizes, torch.bfloat16))
    expected = torch.empty(sizes, dtype=torch.bfloat16)
    for name in ("shape", "dtype", "device", "is_leaf", "requires_grad"):
        assert getattr(found, name) == getattr(expected, name)
    assert found.stride() == expected.stride()


def test_the_dispatcher_is_left_out_on_the_current_device_only(monkeypatch):
    made = []
    monkeypatch.setattr(_memory, "_empty_strided", lambda *layout: made.append(layout))
    monkeypatch.setattr(_memory, "_current_device", lambda: 3)
    layout = _memory.contiguous((2, 3), torch.float32)
    cpu = torch.device("cpu")
    assert _memory.allocator(cpu, 2)(*layout).device == cpu and not made
    _memory.allocator(cpu, 3)(*layout)
    assert made == [((2, 3), (3, 1), torch.float32)]


def test_this_pytorch_allocates_without_its_dispatcher_where_it_can():
    has = hasattr(torch._C._dynamo.guards, "_empty_strided_cuda")
    assert (_memory._find_empty_strided() is not None) == has
