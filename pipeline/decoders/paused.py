"""A decode that pauses after each piece: several of them can go on in turns.

A model decodes in a loop or a recursion of its own, which only a thread of its own can leave in the middle. Of all
threads that take part, one runs at a time, the one that was asked; so what a GPU is given comes in one order, and no
two are ever inside of a model.

    caller's thread         the decode's thread
    next()          ----->  decodes
                    <-----  submit(piece), waits
    uses the piece
    next()          ----->  decodes on
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections.abc import Callable, Iterator

import torch


class _Left(BaseException):
    """Ends a decode from inside that nobody wants more of; never leaves its thread."""


class Paused:
    """One decode, in a thread of its own that runs only during `next` and `close`.

    As in the thread that makes it there are inference mode or none, gradients or none, the current device and stream,
    and a copy of its context variables.

    Args:
        decode: called with a `submit` function, which takes (3, T, H, W) pieces and returns when another is wanted.
        device: of the pieces.
    """

    def __init__(self, decode: Callable[[Callable[[torch.Tensor], None]], None], device: torch.device):
        self._decode: Callable | None = decode
        self._go, self._came = threading.Semaphore(0), threading.Semaphore(0)
        self._piece: torch.Tensor | None = None
        self._error: BaseException | None = None
        self._left = self._ended = False
        stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
        self._as_here = _as_in(torch.is_inference_mode_enabled(), torch.is_grad_enabled(), stream)
        # A daemon: a process that ends would wait for it before it tells the one that could let it go on.
        self._thread = threading.Thread(
            target=contextvars.copy_context().run, args=(self._run,), name="async-frame-pipeline-tile", daemon=True
        )

    def next(self) -> torch.Tensor | None:
        """Decode to the next piece, which stays valid until the next call; None where there is none.

        Raises:
            What the decode raises, with its traceback, whatever kind it is. After that there is no next piece.
        """
        if self._ended:
            return None
        self._piece = None
        if self._thread.ident is None:
            self._thread.start()
        self._go.release()
        self._came.acquire()
        if not self._ended:
            return self._piece
        self._thread.join()
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            error = None  # it leads to this frame, and all that the decode had
        return None

    def close(self) -> None:
        """End the decode wherever it is, and its thread; whatever it makes of that is nobody's concern."""
        self._left, self._piece = True, None
        if self._thread.ident is not None:
            self._go.release()
            self._thread.join()
        self._ended, self._error, self._decode = True, None, None

    def __enter__(self) -> Paused:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # -- in its own thread ------------------------------------------------------------------------

    def _run(self) -> None:
        self._go.acquire()
        try:
            if not self._left:
                with self._as_here:
                    assert self._decode is not None, "it runs once"
                    self._decode(self._submit)
        except _Left:
            pass
        except BaseException as error:
            self._error = error
        finally:
            self._decode = None  # with all it holds
            self._ended = True
            self._came.release()

    def _submit(self, piece: torch.Tensor) -> None:
        if not self._left:  # else it goes on after it was told to end
            self._piece = piece
            del piece
            self._came.release()
            self._go.acquire()
        if self._left:
            raise _Left


@contextlib.contextmanager
def _as_in(inference: bool, gradients: bool, stream: torch.cuda.Stream | None) -> Iterator[None]:
    """What is each thread's own, as it was in another."""
    with contextlib.ExitStack() as stack:
        if stream is not None:
            stack.enter_context(torch.cuda.device(stream.device))
            stack.enter_context(torch.cuda.stream(stream))
        stack.enter_context(torch.inference_mode(inference))
        if not inference:  # which turns gradients off
            stack.enter_context(torch.set_grad_enabled(gradients))
        yield
