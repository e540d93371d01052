"""The registrations of the card's public identities at this device's contact: what their REGISTERs have in common.

The first identity is registered explicitly and brings its implicit set; a further one of the card that is not in
that set has a registration of its own (TS 24.229 clause 5.1.1.2.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from imskit.engine import Tokens
from imskit.ims.gm_path import GmPath
from imskit.ims.profile import UeProfile
from imskit.ims.registration_notice import Notice, identity_key, usable_identity
from imskit.secrets import Identity
from imskit.sip.wire.message import Request

MAXIMUM_IDENTITIES = 100
"""Identities of one registration that are kept; a subscription has a handful."""
_LONG_REGISTRATION = 1200
_REFRESH_BEFORE = 600


@dataclass
class Binding:
    """One identity's registration; a new one has a new Call-ID."""

    impu: Identity
    call_id: str
    tag: str
    cseq: int = 0
    expires_at: float | None = None
    """``None``: not registered."""
    due_at: float | None = None
    """When to register it again, or to try once more."""
    associated: tuple[Identity, ...] = ()
    """P-Associated-URI: the implicit registration set without its barred identities."""

    def accepted(self, seconds: int, associated: tuple[Identity, ...], now: float) -> None:
        """Note a 200; the refresh is due 600 s before the end, or at half of a short time (clause 5.1.1.4.1)."""
        self.expires_at = now + seconds
        self.due_at = now + (seconds - _REFRESH_BEFORE if seconds > _LONG_REGISTRATION else seconds / 2)
        self.associated = associated[:MAXIMUM_IDENTITIES]

    def register(
        self,
        profile: UeProfile,
        path: GmPath,
        *,
        expires: int,
        authorization: str,
        security_client: Sequence[str],
        outbound: bool,
    ) -> Request:
        """Build the next REGISTER (TS 24.229 clauses 5.1.1.2, 5.1.1.4 and 5.1.1.6); no Route."""
        self.cseq += 1
        impu = str.__str__(self.impu)
        fields: list[tuple[str, object]] = [
            ("Max-Forwards", 70),
            ("From", f"<{impu}>;tag={self.tag}"),
            ("To", f"<{impu}>"),
            ("Call-ID", self.call_id),
            ("CSeq", f"{self.cseq} REGISTER"),
            ("Contact", profile.registered_contact(path.contact_uri(), outbound=outbound)),
            ("Expires", expires),
            ("Authorization", authorization),
            ("Supported", "path, gruu, outbound" if outbound else "path, gruu"),
            ("User-Agent", profile.user_agent),
        ]
        if path.agreed:
            fields += path.headers()
        elif security_client:
            fields += [("Require", "sec-agree"), ("Proxy-Require", "sec-agree")]
        if security_client:
            fields.append(("Security-Client", ", ".join(security_client)))
        if path.protected:
            fields += profile.access_headers()
        return Request.create("REGISTER", f"sip:{profile.domain}", fields)


class Bindings:
    """All of them."""

    def __init__(self, profile: UeProfile, tokens: Tokens) -> None:
        self._profile = profile
        self._tokens = tokens
        self.primary = self._fresh(profile.impu)
        self._others: list[Binding] = []

    def __iter__(self) -> Iterator[Binding]:
        return iter([self.primary, *self._others])

    def renew(self) -> Binding:
        """Begin anew: nothing is registered; returns the binding of the first identity."""
        self.primary, self._others = self._fresh(self._profile.impu), []
        return self.primary

    def next_to_leave(self) -> Binding:
        """Return the binding to take away next: that of the first identity comes last."""
        return next((each for each in self._others if each.expires_at is not None), self.primary)

    def due(self, now: float) -> Binding | None:
        """Return one whose time has come."""
        return next((each for each in self if each.due_at is not None and now >= each.due_at), None)

    def associated(self) -> tuple[Identity, ...]:
        """Return the identities that may be used, the default first."""
        found: dict[str, Identity] = {}
        for binding in self:
            if binding.expires_at is not None:
                for each in binding.associated:
                    found.setdefault(identity_key(each), each)
        return tuple(found.values())

    def add_missing(self, now: float) -> None:
        """Add the card's identities that are not registered with those before them; they are due at once."""
        known = _keys((*self.associated(), *(each.impu for each in self)))
        for impu in self._profile.more_impus:
            if identity_key(impu) not in known:
                binding = self._fresh(impu)
                binding.due_at = now
                self._others.append(binding)

    def obey(self, notice: Notice) -> None:
        """Take in which identities the network has registered or not (clauses 5.1.1.5.1 and 5.1.1.7)."""
        known, gone = _keys(self.associated()), _keys(notice.gone)
        room = max(0, MAXIMUM_IDENTITIES - len(known))
        added = [each for each in notice.active if usable_identity(each) and identity_key(each) not in known]
        self.primary.associated += tuple(added[:room])
        for binding in self:
            binding.associated = tuple(each for each in binding.associated if identity_key(each) not in gone)

    def _fresh(self, impu: Identity) -> Binding:
        return Binding(impu, self._tokens(32), self._tokens(16))


def _keys(identities: Iterable[Identity]) -> set[str]:
    return {identity_key(each) for each in identities}
