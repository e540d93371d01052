"""Typed values of the IMS headers.

P-* (RFC 7315, 3325, 5009, 6050), Security-* (RFC 3329), Privacy (RFC 3323), feature tags (RFC 3840, 3841, 6809).
Addresses (P-Asserted-Identity, P-Preferred-Identity, P-Associated-URI, P-Called-Party-ID, Path, Service-Route) are
`NameAddr`: read them with ``message.addresses(name)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from imskit.sip.wire.errors import SipParseError
from imskit.sip.wire.grammar import NO_PARAMETERS, Parameters, is_token, parse_number, quote, split_parameters, unquote
from imskit.sip.wire.headers import NameAddr, token_and_parameters
from imskit.sip.wire.message import Message
from imskit.sip.wire.uri import parse_uri


@dataclass(frozen=True, slots=True)
class PAccessNetworkInfo:
    """Where the access network serves the user (RFC 7315 section 4.4, TS 24.229 section 7.2A.4)."""

    access_type: str
    """``3GPP-E-UTRAN-FDD``, ``IEEE-802.11ac`` …, as written."""
    parameters: Parameters = NO_PARAMETERS

    @classmethod
    def parse(cls, text: str, where: str = "P-Access-Network-Info") -> Self:
        """Parse one element."""
        return cls(*token_and_parameters(text, where))

    @property
    def network_provided(self) -> bool:
        """True if the network put it in: never to be believed from a client."""
        return "network-provided" in self.parameters

    @property
    def cell(self) -> str | None:
        """The 3GPP cell identity."""
        return self.parameters.get("utran-cell-id-3gpp")

    def __str__(self) -> str:
        return f"{self.access_type}{self.parameters}"


@dataclass(frozen=True, slots=True)
class PChargingVector:
    """Charging correlation (RFC 7315 section 4.6): ``icid-value=…;orig-ioi=…``."""

    parameters: Parameters

    @classmethod
    def parse(cls, text: str, where: str = "P-Charging-Vector") -> Self:
        """Parse the value; ``icid-value`` is mandatory."""
        vector = cls(Parameters.parse(f";{text}", where))
        if not vector.icid:
            raise SipParseError("icid-value is missing", where=where, clause="RFC 7315 section 5.6")
        return vector

    @classmethod
    def of(cls, icid: str, *, orig_ioi: str | None = None, term_ioi: str | None = None) -> Self:
        """Build it; inter-operator identifiers are written quoted (TS 24.229 section 4.5.4A)."""
        parameters = Parameters.of([("icid-value", quote(icid))])
        for name, value in (("orig-ioi", orig_ioi), ("term-ioi", term_ioi)):
            if value is not None:
                parameters = parameters.with_(name, quote(value))
        return cls(parameters)

    @property
    def icid(self) -> str:
        """IMS charging identity, the same in the whole dialog."""
        return self.parameters.get("icid-value") or ""

    @property
    def orig_ioi(self) -> str | None:
        """Identifier of the originating network."""
        return self.parameters.get("orig-ioi")

    @property
    def term_ioi(self) -> str | None:
        """Identifier of the terminating network."""
        return self.parameters.get("term-ioi")

    def __str__(self) -> str:
        return str(self.parameters)[1:]


@dataclass(frozen=True, slots=True)
class PChargingFunctionAddresses:
    """Where charging records go (RFC 7315 section 4.5); both names may come more than once."""

    parameters: Parameters

    @classmethod
    def parse(cls, text: str, where: str = "P-Charging-Function-Addresses") -> Self:
        """Parse ``ccf=…;ecf=…``."""
        return cls(Parameters.parse(f";{text}", where))

    @property
    def ccf(self) -> list[str]:
        """Charging collection functions, offline."""
        return self._all("ccf")

    @property
    def ecf(self) -> list[str]:
        """Event charging functions, online."""
        return self._all("ecf")

    def _all(self, name: str) -> list[str]:
        return [unquote(value) for own, value in self.parameters if own.lower() == name and value is not None]

    def __str__(self) -> str:
        return str(self.parameters)[1:]


@dataclass(frozen=True, slots=True)
class PVisitedNetworkId:
    """Name of the visited network (RFC 7315 section 4.3)."""

    network: str
    """Without quotes."""
    parameters: Parameters = NO_PARAMETERS

    @classmethod
    def parse(cls, text: str, where: str = "P-Visited-Network-ID") -> Self:
        """Parse one element, a token or a quoted string."""
        value, parameters = split_parameters(text, where)
        if not value or not (is_token(value) or (value.startswith('"') and value.endswith('"') and len(value) > 1)):
            raise SipParseError("a token or quoted string is needed", where=where, clause="RFC 7315 section 5.3")
        return cls(unquote(value), parameters)

    def __str__(self) -> str:
        return f"{quote(self.network)}{self.parameters}"


@dataclass(frozen=True, slots=True)
class SecurityMechanism:
    """One element of Security-Client, -Server or -Verify (RFC 3329 section 2.2, TS 33.203 annex H)."""

    name: str
    """``ipsec-3gpp``, ``tls``, ``digest``, ``sdes-srtp`` …, as written."""
    parameters: Parameters = NO_PARAMETERS

    @classmethod
    def parse(cls, text: str, where: str = "Security-Client") -> Self:
        """Parse one element."""
        return cls(*token_and_parameters(text, where))

    @property
    def q(self) -> float:
        """Preference 0..1; 0 if absent or unreadable, so that a stated one wins."""
        value = self.parameters.get("q")
        whole, _, part = (value or "").partition(".")
        if whole not in ("0", "1") or not (part == "" or (part.isascii() and part.isdigit() and len(part) <= 3)):
            return 0.0
        return min(1.0, float(f"{whole}.{part or 0}"))

    def number(self, name: str) -> int | None:
        """Return ``spi-c``, ``spi-s`` (0..2**32-1), ``port-c`` or ``port-s`` (1..65535); ``None`` if absent."""
        value = self.parameters.get(name)
        if value is None:
            return None
        port = name.startswith("port")
        number = parse_number(value, name, maximum=65535 if port else 2**32 - 1, clause="TS 33.203 annex H")
        if port and number == 0:
            raise SipParseError("the port is not in 1..65535", where=name, clause="TS 33.203 annex H")
        return number

    def __str__(self) -> str:
        return f"{self.name}{self.parameters}"


@dataclass(frozen=True, slots=True)
class FeatureParameters:
    """``*;+feature="…"``: Accept-Contact, Reject-Contact (RFC 3841), Feature-Caps (RFC 6809)."""

    parameters: Parameters = NO_PARAMETERS

    @classmethod
    def parse(cls, text: str, where: str = "Accept-Contact") -> Self:
        """Parse one element; its value must be ``*``."""
        value, parameters = split_parameters(text, where)
        if value != "*":
            raise SipParseError('the value must be "*"', where=where, clause="RFC 3841 section 10", found=text)
        return cls(parameters)

    def __str__(self) -> str:
        return f"*{self.parameters}"


def p_access_network_info(message: Message) -> list[PAccessNetworkInfo]:
    """Return the P-Access-Network-Info elements."""
    return [PAccessNetworkInfo.parse(element) for element in message.headers.elements("P-Access-Network-Info")]


def p_charging_vector(message: Message) -> PChargingVector | None:
    """Return the P-Charging-Vector."""
    value = message.headers.get("P-Charging-Vector")
    return None if value is None else PChargingVector.parse(value)


def p_charging_function_addresses(message: Message) -> PChargingFunctionAddresses | None:
    """Return the P-Charging-Function-Addresses."""
    value = message.headers.get("P-Charging-Function-Addresses")
    return None if value is None else PChargingFunctionAddresses.parse(value)


def p_visited_network_id(message: Message) -> list[PVisitedNetworkId]:
    """Return the P-Visited-Network-ID elements."""
    return [PVisitedNetworkId.parse(element) for element in message.headers.elements("P-Visited-Network-ID")]


def p_early_media(message: Message) -> list[str]:
    """Return the P-Early-Media parameters in lower case: ``supported``, ``sendrecv``, ``gated`` … (RFC 5009)."""
    return message.tokens("P-Early-Media")


def services(message: Message, name: str) -> list[str]:
    """Return the service URNs of P-Asserted-Service or P-Preferred-Service (RFC 6050)."""
    elements = message.headers.elements(name)
    for element in elements:
        if parse_uri(element, name).scheme != "urn":
            raise SipParseError("a service is a URN", where=name, clause="RFC 6050 section 4.1", found=element)
    return elements


def security_mechanisms(message: Message, name: str) -> list[SecurityMechanism]:
    """Return the elements of Security-Client, Security-Server or Security-Verify."""
    return [SecurityMechanism.parse(element, name) for element in message.headers.elements(name)]


def privacy(message: Message) -> list[str]:
    """Return the privacy values in lower case: ``id``, ``header``, ``user``, ``none``, ``critical``."""
    values = []
    for value in message.headers.get_all("Privacy"):
        for part in value.split(";"):
            text = part.strip(" \t").lower()
            if not is_token(text):
                raise SipParseError("a token is needed", where="Privacy", clause="RFC 3323 section 4.2", found=value)
            values.append(text)
    return values


def feature_parameters(message: Message, name: str) -> list[FeatureParameters]:
    """Return the elements of Accept-Contact, Reject-Contact or Feature-Caps."""
    return [FeatureParameters.parse(element, name) for element in message.headers.elements(name)]


def feature_tags(contact: NameAddr) -> dict[str, str | None]:
    """Return the feature tags of a Contact (RFC 3840 section 9): lower-case name to unquoted value.

    ``None`` stands for a tag without value.  Exact texts stay in ``contact.parameters``.
    """
    base = {
        "audio",
        "automata",
        "class",
        "duplex",
        "data",
        "control",
        "mobility",
        "description",
        "events",
        "priority",
        "methods",
        "extensions",
        "schemes",
        "application",
        "video",
        "language",
        "type",
        "isfocus",
        "actor",
        "text",
    }
    return {
        name.lower(): None if value is None else unquote(value)
        for name, value in contact.parameters
        if name.startswith("+") or name.lower() in base
    }
