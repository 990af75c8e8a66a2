"""The Docker SDK: how a connection is made, and how its errors become ours."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from http.client import HTTPException
from typing import TYPE_CHECKING, Any

import docker
from docker.errors import APIError, DockerException, NotFound
from docker.utils import kwargs_from_env
from requests.exceptions import ReadTimeout
from urllib3.exceptions import HTTPError

from lib.errors import CallError, EngineError, GoneError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from requests import Response

    Ask = Callable[[Callable[[], Response]], Response]
    """Asks a question, which may take as long as the engine is silent, and returns the answer."""

CALL_SECONDS = 10
"""Seconds that the engine may take to answer a call; the event stream has no limit."""


def directly(question: Callable[[], Response]) -> Response:
    """Ask a question, and do nothing until the answer is there."""
    return question()


class _Client(docker.APIClient):
    """The SDK's, where all waiting for the engine is in one place."""

    ask: Ask = staticmethod(directly)

    def request(self, *args: Any, **kwargs: Any) -> Response:  # noqa: ANN401 - as in requests
        """Ask the engine anything but for its events."""
        return self.ask(partial(super().request, *args, **kwargs))


def new_client(api_version: str, ask: Ask = directly) -> docker.APIClient:
    """Return a client of the engine that `DOCKER_HOST` and its kin name; it connects when asked."""
    client = _Client(version=api_version, timeout=CALL_SECONDS, **kwargs_from_env())
    client.ask = ask
    # Each call would look through the environment for a proxy, which no local socket has.
    client.trust_env = not client.base_url.startswith("http+docker:")
    # The SDK would keep a connection open for each of the last 25 URLs, and trip over one that a
    # proxy has closed meanwhile.
    client.headers["Connection"] = "close"
    return client


@contextmanager
def our_errors(advice: str = "") -> Iterator[None]:
    """Raise GoneError, CallError or EngineError for whatever the SDK and what it uses raise."""
    try:
        yield
    except EngineError:
        raise
    except NotFound as error:
        raise GoneError(str(error.explanation)) from error
    except APIError as error:
        reason = f"the engine refused: {error.explanation or error}"
        raise CallError(reason, advice) from error
    except ReadTimeout as error:
        reason = "the engine was silent for too long"
        raise CallError(reason, advice) from error
    except (
        DockerException,
        HTTPError,
        HTTPException,
        OSError,
        ValueError,
        KeyError,
        TypeError,
    ) as error:
        reason = f"the engine did not answer as it should: {error}"
        raise EngineError(reason, advice) from error
