"""What is remembered of a gateway that was lost, and whose namespace is whose."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import pytest

from lib.model import Endpoint
from lib.reconcile.survey import Survey
from lib.settings import Settings
from tests.fakes import CREATED, FACES, GATEWAY, StandInEngine

if TYPE_CHECKING:
    from lib.engine.client import Engine

LOST = replace(GATEWAY, addresses=(), lost=frozenset({4, 6}))


@pytest.mark.parametrize(
    ("network_id", "lost"),
    [
        pytest.param("n1", {6}, id="the same network"),
        pytest.param("n2", set(), id="another network"),
    ],
)
def test_an_address_that_did_not_come_back_with_the_gateway_stays_lost(
    network_id: str, lost: set[int]
) -> None:
    survey = Survey(Settings(), lambda _: None)
    survey.gateway = LOST
    back = replace(GATEWAY, network_id=network_id, addresses=GATEWAY.addresses[:1])

    assert survey._with_losses(back).lost == lost


@pytest.mark.parametrize(
    "told", [pytest.param(True, id="told"), pytest.param(False, id="not told, as by Podman 4.3")]
)
def test_whose_namespace_is_shared_is_known_whatever_a_listing_tells(told: bool) -> None:  # noqa: FBT001
    points = (Endpoint("wg-net", "n1", FACES),)
    path = "/proc/self/ns/net"
    owner = replace(CREATED, id="o1", name="web", running=True, sandbox_key=path, endpoints=points)
    sharing = replace(owner, id="c1", network_mode="container:o1")
    listed = sharing if told else replace(sharing, network_mode="")
    engine = cast("Engine", StandInEngine((owner, sharing), listing=(listed,)))
    survey = Survey(Settings(), lambda _: None)
    survey.gateway = GATEWAY

    for _ in range(2):
        (client,) = survey.wanted(engine, survey.containers(engine)).clients
        assert (client.netns, client.shared_with) == (path, "web")
        assert survey.tied == {"o1", "c1"}
