"""A phone of IMS, which answers early only reliably, and a client that has no 100rel [A-EPCSCF, RFC 3262]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bench.websocket_clients import OFFER, ORIGIN, client_tls
from imskit.secrets import Secret
from simulators.web_client import WebClient

pytestmark = pytest.mark.interop


async def test_the_answer_comes_while_it_rings(edge_world: Callable[..., Any]) -> None:
    """With it ICE and DTLS begin, so that there is speech as soon as the phone is picked up."""
    world = await edge_world(ORIGIN)
    domain = world.domain
    client = await WebClient.connect(world.edge.wss[0], "+15550400", domain, origin=ORIGIN, tls=client_tls())
    try:
        answer = await client.register(user=f"web@{domain}", password=Secret("correct horse"))
        assert answer.status == 200
        phone = f"sip:+15550200@{domain}"
        routes = [f"Route: {route}" for route in client.routes]
        await client.send(
            client.request("INVITE", phone, *routes, f"Contact: {client.contact}", to=f"<{phone}>", body=OFFER)
        )
        early = await client.receive(r"SIP/2\.0 183")
        assert "a=fingerprint:" in early.body
        assert not early.values("RSeq") and not early.values("Require")
        final = await client.receive(r"SIP/2\.0 [2-6]")
        assert final.status == 200 and final.body == early.body
        target = final.value("Contact").partition("<")[2].partition(">")[0]
        recorded = list(reversed(final.values("Record-Route")))
        within = [f"Route: {route}" for route in recorded]
        number = int(final.value("CSeq").split()[0])
        await client.send(client.request("ACK", target, *within, to=final.value("To"), sequence=number))
        await world.until(lambda: world.phone_is("answered"))
        # The phone has had a PRACK or two that the client does not know of: its next number is right all the same.
        await client.send(client.request("BYE", target, *within, to=final.value("To"), sequence=number + 1))
        bye = await client.receive(r"SIP/2\.0 [2-6]")
        assert (bye.status, bye.value("CSeq")) == (200, f"{number + 1} BYE")
        await world.until(lambda: world.phone_is("idle"))
    finally:
        await client.close()
