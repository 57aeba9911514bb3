"""What the tests share: a visible skip where there is no GPU, inputs, and libgla replaced by a recorder."""

import ctypes

import pytest
import torch

from gla_tune import _abi, _arguments, _backward, _context, _forward, _memory


def pytest_configure(config):
    config.addinivalue_line("markers", "gpu: needs a CUDA device")


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def _copy(struct, reference):
    copy = struct()
    ctypes.memmove(ctypes.byref(copy), reference, ctypes.sizeof(copy))
    return copy


class Recorder:
    """Stands for libgla: keeps a copy of the struct of each call and answers with the given statuses."""

    def __init__(self):
        self.calls = []
        self.backward_calls = []  # their forward calls are in `calls`
        self.backward_operations = []
        self.prepared = []  # operations
        self.prepare_status = 0
        self.streams = []
        self.workspaces = []
        self.statuses = []  # of the next calls; GLA_OK after them
        self.workspace_bytes = 0

    def gla_backward(self, context, operation, reference, workspace, size, stream):
        self.backward_operations.append(_abi.Operation(operation))
        copy = _copy(_abi.BackwardCall, reference)
        self.backward_calls.append(copy)
        return self.gla_forward(context, operation, copy.forward, workspace, size, stream)

    def gla_forward(self, _context, _operation, reference, workspace, size, stream):
        self.calls.append(_copy(_abi.ForwardCall, reference))
        self.streams.append(stream)
        self.workspaces.append((workspace, size))
        return self.statuses.pop(0) if self.statuses else 0

    def gla_prepare(self, _context, operation, _reference):
        self.prepared.append(_abi.Operation(operation))
        return self.prepare_status

    def gla_workspace_bytes(self, _context, _operation, _reference, size):
        size._obj.value = self.workspace_bytes
        return 0


@pytest.fixture
def recorder(monkeypatch):
    """Calls on CPU tensors go to a Recorder, with plans of their own."""
    stand_in = Recorder()
    monkeypatch.setattr(_abi, "library", lambda: stand_in)
    monkeypatch.setattr(_context, "handle", lambda device: None)
    monkeypatch.setattr(_arguments, "check_devices", lambda tensors: None)
    monkeypatch.setattr(_forward, "_current_stream", lambda device: 77)
    monkeypatch.setattr(_forward, "_plans", _forward._Plans())
    monkeypatch.setattr(_memory, "_empty_strided", None)
    monkeypatch.setattr(_backward, "_prepared", set())
    return stand_in
