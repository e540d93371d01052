"""From one profile to the other: the one place where a page's description becomes an IMS one, or the reverse.

Nothing is copied across.  Each side's description is made anew from its profile, and only the direction and the choice
of format pass over; so BUNDLE, rtcp-mux, ICE, fingerprints and whatever a browser adds tomorrow cannot reach IMS
[R-MUX], nor preconditions the page.

A call from the page::

    offer = ims_offer(page's offer, …)          sent to IMS
    ims = ims_side.read_answer(offer, answer)   IMS answers
    answer, web = web_answer(page's offer, ims, …)
    plan(web, ims)

A call to the page; ``ims_answer`` may come first (a 183 with preconditions) or last::

    answer, ims = ims_answer(IMS offer, …)      or: ims_side.make_offer(…) where the INVITE had none
    offer = web_offer(ims, …)                   sent to the page
    web = web_side.read_answer(offer, page's answer)
    plan(web, ims)

Later changes: ``negotiation.next_offer`` towards the side that did not ask, then the answer functions with
``previous``.
"""

from __future__ import annotations

from collections.abc import Sequence

from imskit.sdp import ims_side, web_side
from imskit.sdp.attributes import Direction
from imskit.sdp.description import SessionDescription
from imskit.sdp.ims_side import ImsEndpoint
from imskit.sdp.negotiation import LegMedia, MediaMode, MediaPlan
from imskit.sdp.preconditions import Preconditions
from imskit.sdp.profile import IMS_FORMATS_WITH_G711, WEB_FORMATS, Format
from imskit.sdp.web_side import WebEndpoint


def ims_offer(
    page: SessionDescription,
    endpoint: ImsEndpoint,
    formats: Sequence[Format] = IMS_FORMATS_WITH_G711,
    *,
    web_formats: Sequence[Format] = WEB_FORMATS,
    preconditions: Preconditions | None = None,
) -> SessionDescription:
    """The first offer to IMS for the page's offer: one sound line in the page's direction.

    SdpError (488) if the page's offer has no sound line that could be answered, before IMS is troubled.
    """
    _, direction = web_side.check_offer(page, web_formats)
    return ims_side.make_offer(endpoint, formats, direction=direction, preconditions=preconditions)


def web_answer(
    page: SessionDescription,
    ims: LegMedia,
    endpoint: WebEndpoint,
    formats: Sequence[Format] = WEB_FORMATS,
    *,
    previous: SessionDescription | None = None,
    dtls_client: bool | None = None,
) -> tuple[SessionDescription, LegMedia]:
    """The answer to the page, once IMS answered: IMS's own format if the page has it, IMS's direction.

    ``dtls_client`` is our role where the association goes on.

    SdpError (488) if IMS refused the sound, or the page's offer cannot be answered.
    """
    return web_side.make_answer(
        page,
        endpoint,
        formats,
        relayed=ims.codec,
        direction=ims.direction.reversed,
        previous=previous,
        dtls_client=dtls_client,
    )


def web_offer(
    ims: LegMedia | None, endpoint: WebEndpoint, formats: Sequence[Format] = WEB_FORMATS
) -> SessionDescription:
    """The first offer to the page for a call from IMS; IMS's format comes first if the page may have it.

    ``ims`` None: nothing is known of the IMS side yet.
    """
    direction = Direction.SENDRECV
    ordered = list(formats)
    if ims is not None:
        direction = ims.direction.reversed
        codec = ims.codec
        ordered.sort(
            key=lambda item: (item.encoding.lower(), item.clock_rate) != (codec.encoding.lower(), codec.clock_rate)
        )
    return web_side.make_offer(endpoint, ordered, direction=direction)


def ims_answer(
    offer: SessionDescription,
    endpoint: ImsEndpoint,
    formats: Sequence[Format] = IMS_FORMATS_WITH_G711,
    *,
    web: LegMedia | None = None,
    preconditions: Preconditions | None = None,
    previous: SessionDescription | None = None,
) -> tuple[SessionDescription, LegMedia]:
    """The answer to IMS: the offer's first format that this side has, and the page's direction if known.

    SdpError (488) if no sound line can be accepted.
    """
    direction = Direction.SENDRECV if web is None else web.direction.reversed
    return ims_side.make_answer(
        offer, endpoint, formats, direction=direction, preconditions=preconditions, previous=previous
    )


def plan(web: LegMedia, ims: LegMedia) -> MediaPlan:
    """How the bridge joins the two legs: relay where they share the format, else transcode.

    SdpError (488) if either refused the sound.
    """
    same = web.codec.is_same_format(ims.codec)
    return MediaPlan(web, ims, MediaMode.RELAY if same else MediaMode.TRANSCODE)
