"""Work for compile_ahead's processes; light to import, since each of them does."""

import time


def compile_badly(_cases, index, _count):
    """The first fails, the second does not end."""
    if index == 0:
        raise RuntimeError("no compiler")
    if index == 1:
        time.sleep(600)
