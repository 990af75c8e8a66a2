"""Every error raised on purpose.

Each says in its docstring whose fault it is and what happens next. Nothing here does more than
carry text.
"""

from __future__ import annotations


class WgRouteMgrError(Exception):
    """Base of all errors raised on purpose.

    `reason` is what was seen and what it means, `hint` is what the reader can do about it.
    """

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


class ConfigError(WgRouteMgrError):
    """An option or environment variable is wrong: the user's to correct; exit code 2."""


class EngineError(WgRouteMgrError):
    """The engine did not answer, or not sensibly: the environment's fault; tried again later."""


class OldEngineError(EngineError):
    """The engine answers, but is too old: the user's to update; tried again, if they do."""


class DeniedError(EngineError):
    """The engine's socket is there, but not for us: the environment's fault; tried again later."""


class StreamEndedError(EngineError):
    """The event stream ended: the engine restarts, or a proxy cut it; it is opened again."""


class StaleSocketError(WgRouteMgrError):
    """The engine has made its socket anew and ours leads nowhere: only a restart mounts it."""


class CallError(EngineError):
    """The engine failed one call, by an error or by silence; it may be well but for its object."""


class GoneError(EngineError):
    """The engine does not know that object (any more): nobody's fault, containers come and go."""


class NotReadyError(WgRouteMgrError):
    """Something that must exist first does not yet: the daemon says so once and waits for it."""


class HostNetworkError(NotReadyError):
    """The gateway uses the host's network: clients reach its tunnels without us; we wait."""


class UnprovenError(NotReadyError):
    """Nothing proves where the gateway is, or that it is gone: what stands is kept; we wait."""


class NamespaceLeftError(NotReadyError):
    """A container runs in a network namespace that its owner has left: only its restart helps."""


class NetnsError(WgRouteMgrError):
    """A namespace file is missing, is no namespace, or is one that must never be written."""


class NetnsGoneError(NetnsError):
    """The namespace ended with its container: nobody's fault."""


class ShellError(WgRouteMgrError):
    """No shell can be started: the environment's fault; ends the program at its start."""
