"""Work in a process of its own: a hang, a crash or a sticky CUDA error costs that work and not the run."""

from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from typing import Any, Callable, Iterator

Send = Callable[[Any], None]
Work = Callable[[Any, Send], None]

EXIT_SECONDS = 20  # for a process that has said everything; CUDA takes a moment to go


class ChildDied(Exception):
    """The message says how."""


def messages_of(work: Work, argument: Any, silence: float) -> Iterator[Any]:
    """What `work(argument, send)` sends, as it arrives. ChildDied if it dies, or sends nothing for `silence` seconds.

    `work` is a function of a module: the process is started afresh, since CUDA does not survive a fork.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(work, argument, sender))
    process.start()
    sender.close()
    try:
        while True:
            if not receiver.poll(silence):
                raise ChildDied(f"not done after {silence:g} s")
            try:
                message = receiver.recv()
            except EOFError:
                break
            yield message
        process.join(EXIT_SECONDS)
        if process.exitcode:
            raise ChildDied(_obituary(process.exitcode))
    finally:
        if process.is_alive():
            kill_group(process)
        receiver.close()


def _run(work: Work, argument: Any, sender: Connection) -> None:
    os.setsid()  # so that compilers it starts can be ended with it
    os.dup2(2, 1)  # standard output belongs to the table
    with sender:
        work(argument, sender.send)


def kill_group(process: multiprocessing.Process) -> None:
    """A process that has called os.setsid(), and what it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # not yet the leader of its group
        process.kill()
    process.join()


def _obituary(exit_code: int) -> str:
    return f"died of {signal.Signals(-exit_code).name}" if exit_code < 0 else f"exited with {exit_code}"
