"""Reliable provisional responses of IMS for clients that know none (RFC 3262).

Phones of IMS describe their side of a call early only where a PRACK confirms that.  Browsers' SIP libraries mostly have
no PRACK, so a caller's media could not even begin to be set up before the other side has picked up.  The edge, as the
IMS-ALG, says 100rel in such a client's place and sends the PRACK; the client gets the answer in a provisional response
like any other, and again in the 2xx (RFC 6337 section 3.1.1).

Each PRACK takes a CSeq number that the client does not know of: from then on the client's numbers in that dialog are
moved on by `WebDialog.shift` towards IMS, and back towards the client.
"""

from __future__ import annotations

import logging

from imskit.sip.wire.message import Request, Response
from network_edge.ep_cscf.engine.dialogs import WebDialog
from network_edge.ep_cscf.engine.effects import Side
from network_edge.ep_cscf.engine.own_requests import OwnRequests

_log = logging.getLogger(__name__)

RELIABLE = "100rel"


def acknowledge_here(invite: Request) -> bool:
    """Put 100rel into a client's INVITE that has an offer and no 100rel; whether that was so.

    A client that has no offer would have to answer in the PRACK; that one is left alone.
    """
    if RELIABLE in invite.supported or RELIABLE in invite.require:
        return False
    invite.headers.add("Supported", RELIABLE)
    if "Allow" in invite.headers and "PRACK" not in invite.headers.elements("Allow"):
        invite.headers.add("Allow", "PRACK")
    return True


def make_unreliable(response: Response) -> None:
    """Take out what asks the client for a PRACK."""
    headers = response.headers
    kept = [option for option in headers.elements("Require") if option.lower() != RELIABLE]
    headers.remove("Require", "RSeq")
    if kept:
        headers.add("Require", ", ".join(kept))


def confirm(dialog: WebDialog, response: Response, own: OwnRequests, now: float) -> bool:
    """Send the PRACK for a reliable provisional response of IMS; False if the response is to be dropped.

    Raises `SipParseError` for numbers that cannot be read.
    """
    if not response.provisional or RELIABLE not in response.require or (number := response.rseq) is None:
        return True
    if dialog.reliable is not None and number != dialog.reliable + 1:
        # Said before, or one too early: that one comes again (section 4).
        return False
    if not dialog.ims_target:
        _log.warning("a reliable %d has no Contact: no PRACK can be sent", response.status)
        return False
    dialog.reliable = number
    own.send(dialog, "PRACK", Side.IMS, None, now, ("RAck", f"{number} {response.cseq}"))
    return True


def report_as_known(notify: Request, dialog: WebDialog) -> None:
    """A transfer's reports name the REFER by its CSeq number (RFC 3515 section 2.4.6): by the client's own again."""
    event = notify.event if dialog.shift and notify.method == "NOTIFY" else None
    number = event.parameters.get("id") if event is not None else None
    if event is not None and event.package == "refer" and number is not None and number.isdecimal():
        notify.headers.set("Event", f"refer;id={int(number) - dialog.shift}")


def number_towards_ims(request: Request, dialog: WebDialog) -> tuple[tuple[str, str], ...]:
    """Return the CSeq of a client's request as IMS is to get it, if that is another: fields to set on its way."""
    number = request.cseq.number
    if not dialog.shift or (request.method == "ACK" and number == dialog.first):
        return ()
    return (("CSeq", f"{number + dialog.shift} {request.method}"),)


def number_towards_web(response: Response, request: Request) -> None:
    """Give the response to a client's request the number that the request had."""
    if response.cseq != request.cseq:
        response.headers.set("CSeq", str(request.cseq))
