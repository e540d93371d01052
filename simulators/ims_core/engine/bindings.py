"""What the registrar keeps: bindings (RFC 3261 section 10, RFC 5626 section 6), and what becomes of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from imskit.sip.wire.headers import NameAddr
from imskit.sip.wire.uri import SipUri, Uri, uri_equal
from simulators.ims_core.subscribers import Subscriber


@dataclass(frozen=True)
class Binding:
    """One registered contact."""

    contact: NameAddr
    path: tuple[str, ...]
    """Route values that lead to it (RFC 3327)."""
    expires_at: float
    call_id: str
    sequence: int
    refreshed_at: float
    """When its last REGISTER came."""
    reg_id: str = ""
    """Which flow of the instance it is, where the registrar keeps flows apart (RFC 5626 section 6)."""
    temporary: tuple[str, ...] = ()
    """Its temporary GRUUs, the newest last; none for a UE that wants no GRUU."""
    web_server: str = ""
    """Who has vouched for the user, where nobody has asked a card or for a password (TNA)."""

    @property
    def instance(self) -> str:
        """The instance ID of the UE, empty if it has given none (RFC 5626 section 4.1)."""
        return instance_of(self.contact)

    @property
    def preference(self) -> float:
        """The q of the contact, 1 if it has none (RFC 3261 section 20.10)."""
        try:
            return min(1.0, max(0.0, float(self.contact.parameters.get("q") or 1)))
        except ValueError:
            return 1.0

    @property
    def uri(self) -> str:
        """The contact address."""
        return str(self.contact.uri)


@dataclass
class RegisteredSubscriber:
    """A subscriber with at least one binding: all identities of the subscription are registered together."""

    subscriber: Subscriber
    bindings: list[Binding] = field(default_factory=list)
    """The one that was heard of last is the last."""

    def same(self, contact: NameAddr, reg_id: str) -> Binding | None:
        """Return the binding that a contact takes the place of.

        By instance where both have one (RFC 5626 section 6, TS 24.229 clause 5.4.1.2.2F), else by address.
        """
        instance = instance_of(contact)
        for binding in self.bindings:
            if instance and binding.instance:
                if (binding.instance, binding.reg_id) == (instance, reg_id):
                    return binding
            elif _same_address(binding.contact.uri, contact.uri):
                return binding
        return None

    def by_instance(self) -> list[list[Binding]]:
        """The flows of each UE, the newest first (RFC 5626 section 7); a contact without instance ID is one alone."""
        instances: dict[str, list[Binding]] = {}
        for number, binding in enumerate(self.bindings):
            instances.setdefault(binding.instance or f"#{number}", []).insert(0, binding)
        return list(instances.values())


@dataclass(frozen=True)
class RegistrationEvent:
    """What happened to a contact, for reg-event: registered, refreshed, expired, unregistered, deactivated …"""

    subscriber: Subscriber
    binding: Binding
    event: str


def instance_of(contact: NameAddr) -> str:
    """Return the instance ID of a contact, empty if it has none (RFC 5626 section 4.1)."""
    return (contact.parameters.get("+sip.instance") or "").strip('"').strip("<>")


def _same_address(one: Uri, other: Uri) -> bool:
    return isinstance(one, SipUri) and isinstance(other, SipUri) and uri_equal(one, other)
