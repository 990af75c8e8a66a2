"""Calls of the C library that Python does not have; each raises OSError as Python's own do."""

from __future__ import annotations

import ctypes
import os

_LIBC = ctypes.CDLL(None, use_errno=True)

_SET_CHILD_SUBREAPER = 36
"""For prctl(2), from Linux 3.4 on."""
_NEW_NET = 0x40000000
"""`CLONE_NEWNET`, for setns(2)."""


def adopt_orphans() -> None:
    """Become the parent of descendants whose parent ends, as the first process of a container is.

    Nobody else waits for them, so none of their process ids is given again before we do.
    """
    _check(_LIBC.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0))


def enter_network_namespace(descriptor: int) -> None:
    """Move the calling thread into the network namespace of an open file."""
    _check(_LIBC.setns(descriptor, _NEW_NET))


def socket_option(descriptor: int, level: int, option: int, value: bytes) -> bytes:
    """Hand a value to getsockopt(2), and return what the kernel makes of it."""
    buffer = ctypes.create_string_buffer(value, len(value))
    length = ctypes.c_uint(len(value))
    _check(_LIBC.getsockopt(descriptor, level, option, buffer, ctypes.byref(length)))
    return buffer.raw


def _check(answer: int) -> None:
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
