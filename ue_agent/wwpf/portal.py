"""Requests that the WWPF itself puts to the operator's portal: over verified TLS, no cookie or page kept."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
import yarl

from ue_agent.wwpf.config import Site

MAXIMUM_BODY = 16 * 1024 * 1024
"""Octets of a page that the proxy fetches itself."""
CONNECT_S = 10.0
TOTAL_S = 30.0

_SYSTEM_TRUST = (Path("/etc/ssl/certs/ca-certificates.crt"), Path("/etc/pki/tls/certs/ca-bundle.crt"))
# Of one connection only (RFC 9110 section 7.6.1), or set anew for each message.
_HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "te", "trailer"}
    | {"transfer-encoding", "upgrade", "http2-settings", "content-length", "host", "expect"}
)

type Headers = list[tuple[str, str]]


class PortalError(Exception):
    """The portal cannot be reached or does not answer properly; the text is fit for the user."""


@dataclass(frozen=True, slots=True)
class PageRequest:
    """A request as the browser made it."""

    site: Site
    method: str
    path: str
    """Path and query, as they came."""
    headers: Headers
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class PageAnswer:
    """The portal's response; ``body`` is still encoded as its headers say."""

    status: int
    reason: str
    headers: Headers
    body: bytes

    def all(self, name: str) -> list[str]:
        """Return every value of a header."""
        return [value for own, value in self.headers if own.lower() == name]

    @property
    def challenges(self) -> Sequence[str]:
        """Values of ``WWW-Authenticate``."""
        return self.all("www-authenticate")


def trust_file(configured: Path | None) -> Path | None:
    """Return the file of trusted CAs: the configured one, else the system's, ``None`` for the libraries' own."""
    return configured or next((path for path in _SYSTEM_TRUST if path.exists()), None)


class Portal:
    """The client side towards the operator's web servers."""

    def __init__(self, trust: Path | None) -> None:
        context = ssl.create_default_context(cafile=trust_file(trust))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # As browsers and mitmproxy do: an operator's own CA may lack an extension that strict checking asks for.
        context.verify_flags &= ~ssl.VerifyFlags.VERIFY_X509_STRICT
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context, use_dns_cache=False),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=TOTAL_S, connect=CONNECT_S),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def fetch(self, request: PageRequest, authorization: str | None) -> PageAnswer:
        """Send the request, with this ``Authorization`` if any; PortalError says why there is no answer."""
        headers = forwarded(request.headers, ("authorization",))
        if authorization is not None:
            headers.append(("Authorization", authorization))
        url = yarl.URL(f"{request.site.origin}{request.path}", encoded=True)
        name = request.site.host
        try:
            async with self._session.request(
                request.method,
                url,
                headers=_joined_cookies(headers),
                data=request.body or None,
                allow_redirects=False,
            ) as response:
                body = await response.content.read(MAXIMUM_BODY + 1)
                while len(body) <= MAXIMUM_BODY and (more := await response.content.read(MAXIMUM_BODY + 1)):
                    body += more
                if len(body) > MAXIMUM_BODY:
                    raise PortalError(f"{name} answers with more than {MAXIMUM_BODY >> 20} MiB.")
                received = [(key, value) for key, value in response.headers.items()]
                return PageAnswer(response.status, response.reason or "", forwarded(received), body)
        except aiohttp.ClientConnectorCertificateError as error:
            why = getattr(error.certificate_error, "verify_message", "") or str(error.certificate_error)
            raise PortalError(f"The certificate of {name} cannot be trusted: {why}.") from error
        except aiohttp.ClientConnectorDNSError as error:
            raise PortalError(f"The name {name} cannot be resolved.") from error
        except aiohttp.ClientConnectorError as error:
            number = error.os_error.errno
            why = os.strerror(number) if number else str(error.os_error)
            raise PortalError(f"{name} cannot be reached: {why}.") from error
        except TimeoutError as error:
            raise PortalError(f"{name} does not answer.") from error
        except (aiohttp.ClientError, ValueError) as error:
            raise PortalError(f"{name} does not answer properly ({type(error).__name__}).") from error


def forwarded(headers: Iterable[tuple[str, str]], without: Sequence[str] = ()) -> Headers:
    """Return the headers that go on to the other side: none of one connection only, none of ``without``."""
    headers = list(headers)
    named = {name.strip().lower() for key, value in headers if key.lower() == "connection" for name in value.split(",")}
    return [
        (key, value)
        for key, value in headers
        if key.lower() not in _HOP_BY_HOP and key.lower() not in named and key.lower() not in without
    ]


def _joined_cookies(headers: Headers) -> Headers:
    """Put the cookies into one header: HTTP/2 may split them (RFC 9113 section 8.2.3), HTTP/1.1 may not."""
    cookies = [value for key, value in headers if key.lower() == "cookie"]
    if len(cookies) < 2:
        return headers
    return [(key, value) for key, value in headers if key.lower() != "cookie"] + [("Cookie", "; ".join(cookies))]
