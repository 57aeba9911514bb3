"""The C ABI of libgla (runtime/include/gla/gla.h) through ctypes: its structs, its functions, its failures."""

import ctypes
import enum
import os
from functools import lru_cache
from importlib.resources import files

ABI_VERSION = 1


class Operation(enum.IntEnum):
    """gla_operation."""

    CHUNK_FORWARD = 0
    RECURRENT_FORWARD = 1
    CHUNK_BACKWARD = 2
    RECURRENT_BACKWARD = 3


RECURRENT = (Operation.RECURRENT_FORWARD, Operation.RECURRENT_BACKWARD)
# The operation that gives the gradients of a forward operation.
BACKWARD = {
    Operation.CHUNK_FORWARD: Operation.CHUNK_BACKWARD,
    Operation.RECURRENT_FORWARD: Operation.RECURRENT_BACKWARD,
}


# gla_dtype, by the names of torch's dtypes; gla_accuracy
DTYPES = {"float16": 0, "bfloat16": 1, "float32": 2}
ACCURACIES = {"default": 0, "fast": 1}
TENSORS = ("q", "k", "v", "gk", "gv", "o")

LogCallback = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)


class ContextOptions(ctypes.Structure):
    """gla_context_options."""

    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("device", ctypes.c_int),
        ("table", ctypes.c_char_p),
        ("cache_dir", ctypes.c_char_p),
        ("max_multiprocessors", ctypes.c_int),
        ("log", LogCallback),
        ("log_user", ctypes.c_void_p),
    ]


def _tensor_fields(name):
    strides = [(f"{name}_stride_{axis}", ctypes.c_int64) for axis in ("batch", "token", "head")]
    return [(f"{name}_data", ctypes.c_void_p), *strides]


class ForwardCall(ctypes.Structure):
    """gla_forward_call. Each gla_tensor lies flat here, q.data as q_data: one attribute less in every call."""

    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        *(field for name in TENSORS for field in _tensor_fields(name)),
        ("initial_state", ctypes.c_void_p),
        ("final_state", ctypes.c_void_p),
        ("cu_seqlens", ctypes.c_void_p),
        ("cu_seqlens_host", ctypes.c_void_p),
        ("cu_seqlens_is_int64", ctypes.c_int),
        ("fp32_gate_gradients", ctypes.c_int),
        ("batch", ctypes.c_int64),
        ("sequences", ctypes.c_int64),
        ("tokens", ctypes.c_int64),
        ("query_heads", ctypes.c_int),
        ("heads", ctypes.c_int),
        ("head_dim_k", ctypes.c_int),
        ("head_dim_v", ctypes.c_int),
        ("dtype", ctypes.c_int),
        ("gate_dtype", ctypes.c_int),
        ("state_dtype", ctypes.c_int),
        ("reverse", ctypes.c_int),
        ("state_v_first", ctypes.c_int),
        ("has_scale", ctypes.c_int),
        ("scale", ctypes.c_float),
        ("accuracy", ctypes.c_int),
    ]


class BackwardCall(ctypes.Structure):
    """gla_backward_call, its tensors flat as in ForwardCall."""

    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("forward", ctypes.POINTER(ForwardCall)),
        *(field for name in ("d_o", "dq", "dk", "dv", "dgk", "dgv") for field in _tensor_fields(name)),
        ("d_final_state", ctypes.c_void_p),
        ("d_initial_state", ctypes.c_void_p),
    ]


def set_tensor(call: ctypes.Structure, name: str, tensor) -> None:
    """Points one of a call's tensors at a torch tensor [B, T, H, channels]."""
    setattr(call, f"{name}_data", tensor.data_ptr())
    set_strides(call, name, tensor)


def set_strides(call: ctypes.Structure, name: str, tensor) -> None:
    """Says how one of a call's tensors lies: as a torch tensor [B, T, H, channels] does."""
    for axis, stride in zip(("batch", "token", "head"), tensor.stride()):
        setattr(call, f"{name}_stride_{axis}", stride)


class Error(RuntimeError):
    """A failure of libgla: no GPU, no compiler, a damaged file, an error of the driver. `status` names its kind."""

    def __init__(self, message: str, status: str):
        super().__init__(message)
        self.status = status


class Unsupported(NotImplementedError):
    """What was asked for is legal, but gla_tune (or this GPU) cannot do it. `reason` says it in a few words."""

    def __init__(self, message: str, reason: str):
        super().__init__(message)
        self.reason = reason


class Status(enum.IntEnum):
    """gla_status, as far as this package tells one from another."""

    OK = 0
    INVALID_ARGUMENT = 1
    UNSUPPORTED = 2
    WORKSPACE = 4


def _library_path() -> str:
    given = os.environ.get("GLA_TUNE_LIBRARY")
    # A package installed with `pip install -e` has its built files in another folder than its sources.
    return given or str(files(__package__) / "lib" / f"libgla.so.{ABI_VERSION}")


@lru_cache(maxsize=None)
def library() -> ctypes.CDLL:
    """libgla: the one installed with this package, or the file that GLA_TUNE_LIBRARY names."""
    path = _library_path()
    try:
        loaded = ctypes.CDLL(path)
    except OSError as error:
        raise Error(f"libgla cannot be loaded: {error}; reinstall gla-tune, or set GLA_TUNE_LIBRARY", "io") from None
    pointer, size, status = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    call, backward_call = ctypes.POINTER(ForwardCall), ctypes.POINTER(BackwardCall)
    signatures = {
        "gla_abi_version": (ctypes.c_int, []),
        "gla_version": (ctypes.c_char_p, []),
        "gla_last_error": (ctypes.c_char_p, []),
        "gla_status_name": (ctypes.c_char_p, [status]),
        "gla_context_create": (status, [ctypes.POINTER(ContextOptions), ctypes.POINTER(pointer)]),
        "gla_workspace_bytes": (status, [pointer, ctypes.c_int, call, ctypes.POINTER(size)]),
        "gla_forward": (status, [pointer, ctypes.c_int, call, pointer, size, pointer]),
        "gla_backward": (status, [pointer, ctypes.c_int, backward_call, pointer, size, pointer]),
        "gla_prepare": (status, [pointer, ctypes.c_int, call]),
        "gla_describe": (status, [pointer, ctypes.c_int, call, ctypes.c_char_p, size]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    if loaded.gla_abi_version() != ABI_VERSION:
        raise Error(f"{path} has ABI {loaded.gla_abi_version()}; gla_tune needs {ABI_VERSION}", "io")
    return loaded


def check(status: int) -> None:
    """Raises what a status other than GLA_OK stands for, with libgla's message."""
    if status == Status.OK:
        return
    message = library().gla_last_error().decode()
    if status == Status.INVALID_ARGUMENT:
        raise ValueError(message)
    if status == Status.UNSUPPORTED:
        raise Unsupported(message, "not supported by libgla")
    raise Error(message, library().gla_status_name(status).decode())
