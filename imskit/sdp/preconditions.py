"""Quality-of-service preconditions with segmented status: RFC 3312, RFC 4032, values as TS 24.229 uses them.

A ``Preconditions`` value is the status table of one media line as one side sees it: ``local`` is that side's own
access network.  ``read`` gives the table of the side that wrote the description, ``inverted`` turns it round.

How a call uses it::

    caller                               callee
    table = first_offer(reserved)        peer = read(offer media)
    write(offer media, table)     ->     table = answer(peer, reserved); write(answer media, table)
    table = after_answer(table, read(answer media))
    table = offer(table, reserved) ->    …until table.met; nobody is alerted before
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

from imskit.sdp.attributes import Direction
from imskit.sdp.description import MediaDescription, Origin, SessionDescription
from imskit.sdp.errors import SdpError


class Strength(IntEnum):
    """How much a resource is wanted (RFC 3312 section 5.1)."""

    NONE = 0
    OPTIONAL = 1
    MANDATORY = 2


# Direction tags: "none" where SDP says inactive.
_TAGS = {
    "none": Direction.INACTIVE,
    "send": Direction.SENDONLY,
    "recv": Direction.RECVONLY,
    "sendrecv": Direction.SENDRECV,
}
_NAMES = {direction: tag for tag, direction in _TAGS.items()}
_STRENGTHS = {strength.name.lower(): strength for strength in Strength}


@dataclass(frozen=True, slots=True)
class Segment:
    """One side's access network: what is reserved (``current``) and how strongly each direction is wanted."""

    current: Direction = Direction.INACTIVE
    send: Strength = Strength.NONE
    receive: Strength = Strength.NONE

    @property
    def met(self) -> bool:
        """Whether every mandatory direction is reserved."""
        return (self.send < Strength.MANDATORY or self.current.sends) and (
            self.receive < Strength.MANDATORY or self.current.receives
        )

    @property
    def inverted(self) -> Segment:
        """With send and receive exchanged (RFC 3312 table 4)."""
        return Segment(self.current.reversed, self.receive, self.send)

    def wanted(self, strength: Strength) -> Segment:
        """With both directions wanted at least as strongly (an answer may upgrade only, section 5.2)."""
        return replace(self, send=max(self.send, strength), receive=max(self.receive, strength))


@dataclass(frozen=True, slots=True)
class Preconditions:
    """The status table of a media line; ``confirm_*``: what the writer wants to be told of (section 7)."""

    local: Segment
    remote: Segment
    confirm_local: Direction = Direction.INACTIVE
    confirm_remote: Direction = Direction.INACTIVE

    @property
    def met(self) -> bool:
        """Whether all mandatory preconditions are met, so that the callee may be alerted (section 6)."""
        return self.local.met and self.remote.met

    @property
    def mandatory(self) -> bool:
        """Whether any row is mandatory: the message then needs ``Require: precondition`` (section 11)."""
        return any(
            strength == Strength.MANDATORY
            for segment in (self.local, self.remote)
            for strength in (segment.send, segment.receive)
        )

    @property
    def inverted(self) -> Preconditions:
        """The same table as the other side sees it."""
        return Preconditions(
            self.remote.inverted,
            self.local.inverted,
            self.confirm_remote.reversed,
            self.confirm_local.reversed,
        )


def read(media: MediaDescription) -> Preconditions | None:
    """The table in a description, as its writer sees it; None without preconditions or on a refused line.

    SdpError (580) for a mandatory precondition of an unknown type that needs this side (section 9), or a mandatory
    end-to-end one, which an IMS access cannot meet; SdpError (400) for a malformed line.
    """
    if media.port == 0:
        return None
    desired = media.typed("des", _desired)
    for kind, strength, segment, _ in desired:
        if strength == "mandatory" and (segment == "e2e" or (kind != "qos" and segment != "local")):
            raise SdpError(f"mandatory {kind} {segment} precondition", "RFC 3312 sections 8 and 9", status=580)
    current = {segment: direction for kind, segment, direction in media.typed("curr", _status) if kind == "qos"}
    confirm = {segment: direction for kind, segment, direction in media.typed("conf", _status) if kind == "qos"}
    if not ({"local", "remote"} & current.keys()) and not any(
        kind == "qos" and segment != "e2e" for kind, _, segment, _ in desired
    ):
        return None
    segments: dict[str, Segment] = {}
    for name in ("local", "remote"):
        send = receive = Strength.NONE
        for kind, strength, segment, direction in desired:
            if kind == "qos" and segment == name:
                value = _STRENGTHS.get(strength, Strength.NONE)  # "failure" and "unknown" want nothing
                send = max(send, value) if direction.sends else send
                receive = max(receive, value) if direction.receives else receive
        segments[name] = Segment(current.get(name, Direction.INACTIVE), send, receive)
    return Preconditions(
        segments["local"],
        segments["remote"],
        confirm.get("local", Direction.INACTIVE),
        confirm.get("remote", Direction.INACTIVE),
    )


def write(media: MediaDescription, table: Preconditions) -> None:
    """Put ``table`` into a description of the side whose view it is, in place of what is there (section 5.1.1)."""
    media.remove_attributes("curr", "des", "conf")
    segments = (("local", table.local), ("remote", table.remote))
    for name, segment in segments:
        media.add_attribute("curr", f"qos {name} {_NAMES[segment.current]}")
    for name, segment in segments:
        if segment.send == segment.receive:
            media.add_attribute("des", f"qos {segment.send.name.lower()} {name} sendrecv")
        else:
            media.add_attribute("des", f"qos {segment.send.name.lower()} {name} send")
            media.add_attribute("des", f"qos {segment.receive.name.lower()} {name} recv")
    for name, direction in (("local", table.confirm_local), ("remote", table.confirm_remote)):
        if direction is not Direction.INACTIVE:
            media.add_attribute("conf", f"qos {name} {_NAMES[direction]}")


def first_offer(reserved: bool) -> Preconditions:
    """The table of a first offer: own resources mandatory, the peer's optional (TS 34.229-1 cases 12.13a, 15.21)."""
    return Preconditions(
        Segment(_current(reserved), Strength.MANDATORY, Strength.MANDATORY),
        Segment(Direction.INACTIVE, Strength.OPTIONAL, Strength.OPTIONAL),
    )


def answer(peer: Preconditions, reserved: bool) -> Preconditions:
    """The table to answer ``peer``'s offer with; ``reserved``: whether our own resources are there.

    Both sides become mandatory, the peer's state is taken as it says, and a confirmation is asked for while the
    peer has not reserved (section 6).
    """
    table = peer.inverted
    local = replace(table.local.wanted(Strength.MANDATORY), current=_current(reserved))
    remote = table.remote.wanted(Strength.MANDATORY)
    confirm = Direction.INACTIVE if remote.met else Direction.SENDRECV
    return Preconditions(local, remote, confirm_remote=confirm)


def offer(table: Preconditions, reserved: bool) -> Preconditions:
    """The table of a later offer, once something changed: our own state anew, the peer's as last known."""
    return Preconditions(
        replace(table.local, current=_current(reserved)),
        table.remote,
    )


def after_answer(peer: Preconditions, reserved: bool) -> Preconditions:
    """Our table once the ``peer``'s answer came: its view inverted, our own resources as we know them.

    ``confirm_local`` tells whether the peer wants an offer as soon as ours are there (section 7).
    """
    table = peer.inverted
    return replace(table, local=replace(table.local, current=_current(reserved)))


def failure(offer: SessionDescription, table: Preconditions) -> SessionDescription:
    """The description for a 580: each line at port 0, the unmet desired states named (section 8)."""
    origin = offer.origin
    description = SessionDescription.create(Origin("-", 0, 0, origin.address_type, origin.address))
    description.add("c", f"IN {origin.address_type} {origin.address}")
    for media in offer.media:
        line = MediaDescription(media.media, 0, media.protocol, list(media.formats))
        if read(media) is not None:
            for name, segment in (("local", table.local), ("remote", table.remote)):
                if not segment.met:
                    line.add_attribute("des", f"qos failure {name} sendrecv")
        description.media.append(line)
    return description


def _current(reserved: bool) -> Direction:
    return Direction.SENDRECV if reserved else Direction.INACTIVE


def _status(value: str) -> tuple[str, str, Direction]:
    fields = value.split()
    if len(fields) != 3 or fields[1] not in ("e2e", "local", "remote") or fields[2] not in _TAGS:
        raise SdpError("malformed curr or conf", "RFC 3312 section 4")
    return fields[0], fields[1], _TAGS[fields[2]]


def _desired(value: str) -> tuple[str, str, str, Direction]:
    fields = value.split()
    if (
        len(fields) != 4
        or fields[1] not in (*_STRENGTHS, "failure", "unknown")
        or fields[2] not in ("e2e", "local", "remote")
        or fields[3] not in _TAGS
    ):
        raise SdpError("malformed des", "RFC 3312 section 4")
    return fields[0], fields[1], fields[2], _TAGS[fields[3]]
