"""One libgla context per device, made at its first use; libgla's log goes to the logger `gla_tune`."""

import ctypes
import logging
import threading

from . import _abi

logger = logging.getLogger("gla_tune")
_LEVELS = (logging.DEBUG, logging.INFO, logging.WARNING)  # by gla_log_level

_handles = {}
_lock = threading.Lock()


@_abi.LogCallback
def _log(_user, level, message):
    logger.log(_LEVELS[level], "%s", message.decode(errors="replace"))


def handle(device: int) -> ctypes.c_void_p:
    """The context of a CUDA ordinal. Contexts live as long as the process: work may be in flight until its end."""
    found = _handles.get(device)
    if found is not None:
        return found
    with _lock:
        if device not in _handles:
            options = _abi.ContextOptions(struct_size=ctypes.sizeof(_abi.ContextOptions), device=device, log=_log)
            context = ctypes.c_void_p()
            _abi.check(_abi.library().gla_context_create(ctypes.byref(options), ctypes.byref(context)))
            _handles[device] = context
        return _handles[device]
