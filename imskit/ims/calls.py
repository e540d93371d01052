"""All calls of an IMS UE: who calls whom, and which machine hears of what (TS 24.229 clauses 5.1.3, 5.1.4)."""

from __future__ import annotations

import logging
from collections.abc import Callable

from imskit.ims.call import CallEvent, CallMachine
from imskit.ims.call_words import warning
from imskit.ims.events import Dial, Ended, Fields, Hangup, IncomingCall, Output, Ring
from imskit.ims.incoming_call import IncomingCallMachine
from imskit.ims.outgoing_call import OutgoingCallMachine
from imskit.ims.profile import MMTEL
from imskit.sdp.errors import SdpError
from imskit.sip.engine import user_agent_events as ua
from imskit.sip.engine.dialog import DialogId
from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.headers import NameAddr
from imskit.sip.wire.message import Request

_log = logging.getLogger(__name__)

SILENCE_SECONDS = 12.0
"""A call that not even a 100 has come for ends then: the user waits for a P-CSCF that is not there.

The P-CSCF answers at once (RFC 3261 section 17.2.1), and the INVITE has been sent three times by then; timer B of
TS 24.229 table 7.7.1 takes 128 s.
"""
_ANONYMOUS = NameAddr.parse('"Anonymous" <sip:anonymous@anonymous.invalid>')


class Calls:
    """See the module's text.  ``command`` reaches the user agent, ``emit`` the owner of the UE."""

    def __init__(
        self, command: Callable[[ua.Command], None], emit: Callable[[Output], None], *, preconditions: bool
    ) -> None:
        self._command = command
        self._emit = emit
        self._preconditions = preconditions
        self._calls: dict[str, CallMachine] = {}
        self._silent: dict[str, float] = {}
        """Calls that nothing has come for, and until when they wait."""

    @property
    def names(self) -> tuple[str, ...]:
        """The calls that have not ended."""
        return tuple(self._calls)

    def deadline(self) -> float | None:
        """When `tick` is due."""
        times = [at for machine in self._calls.values() if (at := machine.deadline()) is not None]
        return min((*self._silent.values(), *times), default=None)

    def tick(self, now: float, reason: str) -> None:
        """Give up what not even a 100 has come for; ``reason`` is for the user."""
        for machine in list(self._calls.values()):
            machine.tick(now)
            self._flush(machine)
        for name in [name for name, until in self._silent.items() if now >= until]:
            del self._silent[name]
            if (silent := self._calls.get(name)) is not None:
                silent.give_up(reason)
                self._flush(silent)

    # ---- from the owner -------------------------------------------------------------------------------------------

    def dial(self, event: Dial, impu: str, contact: str, further: Fields, now: float) -> None:
        """Make a call as ``impu``; ``further`` go into its INVITE.  ``ValueError`` if its name is in use."""
        if event.call in self._calls:
            raise ValueError(f"there is a call {event.call} already")
        headers = (*_call_headers(impu), *further)
        machine = OutgoingCallMachine(event, impu, contact, headers, preconditions=self._preconditions)
        self._calls[event.call] = machine
        self._silent[event.call] = now + SILENCE_SECONDS
        machine.start()
        self._flush(machine)

    def handle(self, event: CallEvent, now: float) -> None:
        """Take in an event of the owner's; one for a call that has ended meanwhile means nothing."""
        machine = self._calls.get(event.call)
        if machine is None:
            return
        if isinstance(machine, IncomingCallMachine) and isinstance(event, Ring):
            machine.waits = any(other.dialog is not None for other in self._calls.values() if other is not machine)
        machine.handle(event, now)
        self._flush(machine)
        if isinstance(machine, IncomingCallMachine) and machine.dialog is not None and machine.replaces:
            # RFC 3891 section 3: what the new call takes over ends when it is answered.
            replaced, machine.replaces = machine.replaces, ""
            self.handle(Hangup(replaced), now)

    def peer(self, call: str) -> tuple[str, DialogId | None]:
        """Return the URI of a call's other side, and the dialog of a call that stands; empty if it has ended."""
        machine = self._calls.get(call)
        return (machine.peer, machine.dialog) if machine is not None else ("", None)

    def end_all(self, now: float) -> None:
        """End every call."""
        for machine in list(self._calls.values()):
            machine.handle(Hangup(machine.name), now)
            self._flush(machine)

    # ---- from the user agent --------------------------------------------------------------------------------------

    def incoming(self, incoming: ua.IncomingCall) -> None:
        """Somebody calls."""
        request = incoming.request
        try:
            by = caller(request)
            called = request.addresses("P-Called-Party-ID")
            replaced = self._replaced(request)
        except SipParseError as error:
            self._command(ua.Reject(incoming.call, error.status, error.reason))
            return
        if isinstance(replaced, int):
            self._command(ua.Reject(incoming.call, replaced))
            return
        try:
            machine = IncomingCallMachine(incoming, str(by.uri), preconditions=self._preconditions)
        except SdpError as error:
            self._command(ua.Reject(incoming.call, error.status or 488, None, warning(str(error))))
            return
        machine.replaces = replaced
        self._calls[incoming.call] = machine
        uri = str(called[0].uri) if called else request.uri
        self._emit(IncomingCall(incoming.call, by, uri, machine.offer, request, replaced))

    def _replaced(self, request: Request) -> str | int:
        """Return our call that the INVITE takes over, empty for none, or the status that refuses it.

        RFC 3891 section 3.
        """
        fields = request.headers.get_all("Replaces")
        if not fields:
            return ""
        if len(fields) > 1 or "Join" in request.headers:
            return 400
        replaces = request.replaces
        assert replaces is not None
        wanted = DialogId(replaces.call_id, replaces.to_tag, replaces.from_tag)
        for name, machine in self._calls.items():
            stands = machine.dialogs.get(wanted)
            if stands is None:
                continue
            if stands:
                return 486 if replaces.early_only else name
            # An early dialog only of a call that this side makes.
            return name if isinstance(machine, OutgoingCallMachine) else 481
        return 481

    def told(self, call: str, output: ua.Output, now: float) -> None:
        """Take in what the user agent says of a call."""
        self._silent.pop(call, None)
        machine = self._calls.get(call)
        if machine is not None:
            machine.told(output, now)
            self._flush(machine)

    def refused(self, refused: ua.Refused, now: float) -> bool:
        """A command came too late or cannot be carried out; False if it is none of a call's."""
        name = getattr(refused.command, "call", None)
        machine = self._calls.get(name) if isinstance(name, str) else None
        if machine is None:
            return False
        machine.refused(refused.command, refused.refusal, refused.text, now)
        self._flush(machine)
        return True

    def _flush(self, machine: CallMachine) -> None:
        while (command := machine.next_command()) is not None:
            self._command(command)
        while (output := machine.next_output()) is not None:
            if isinstance(output, Ended):
                self._calls.pop(output.call, None)
                self._silent.pop(output.call, None)
            self._emit(output)


def _call_headers(impu: str) -> Fields:
    """What an INVITE says beside the usual (TS 24.229 clause 5.1.3.1, GSMA IR.92 clauses 2.2.4 and 2.2.8)."""
    return (
        ("P-Preferred-Identity", f"<{impu}>"),
        ("P-Preferred-Service", MMTEL),
        ("P-Early-Media", "supported"),
        ("Accept-Contact", '*;+g.3gpp.icsi-ref="urn%3Aurn-7%3A3gpp-service.ims.icsi.mmtel"'),
    )


def caller(request: Request) -> NameAddr:
    """Who calls: what the network asserts, else what the caller says; nobody where privacy is asked for.

    TS 24.607 clause 4.5.2.9; RFC 3323 section 4.2, RFC 3325 section 7.
    """
    asserted = request.addresses("P-Asserted-Identity")
    privacy = {value.strip().lower() for element in request.headers.get_all("Privacy") for value in element.split(";")}
    if privacy & {"id", "user", "header"}:
        return _ANONYMOUS
    return asserted[0] if asserted else request.from_
