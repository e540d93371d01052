"""Pages that the WWPF shows in place of the operator's, when there is a reason to tell the user."""

from __future__ import annotations

import html
from typing import NamedTuple


class Page(NamedTuple):
    """A whole response body with its status."""

    status: int
    body: bytes


_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0; min-height: 100vh; display: grid; place-items: center; }
main { max-width: 32rem; padding: 2rem; }
h1 { font-size: 1.4rem; margin: 0 0 .5rem; }
p { margin: .5rem 0; }
.what { font-weight: 600; }
.where { opacity: .65; font-size: .85rem; margin-top: 1.5rem; }
a { color: inherit; }
"""


def page(status: int, title: str, what: str, advice: str) -> Page:
    """Return a page: what happened (``what``), and what the user can do (``advice``)."""
    body = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body><main>"
        f'<h1>{html.escape(title)}</h1><p class="what">{html.escape(what)}</p><p>{html.escape(advice)}</p>'
        '<p><a href="">Try again</a></p>'
        '<p class="where">This message comes from the calling service on this device.</p>'
        "</main></body></html>"
    )
    return Page(status, body.encode())


def portal_unreachable(why: str) -> Page:
    """The operator's server gave no answer."""
    return page(502, "The operator's page cannot be loaded", why, "Check the network connection, then try again.")


def login_refused(why: str) -> Page:
    """The operator does not accept the card."""
    return page(
        403,
        "The log-in with the SIM card was refused",
        why,
        "Check that the SIM card in this device is active and belongs to this operator; its support can tell.",
    )


def wrong_network(why: str) -> Page:
    """The card does not accept the operator."""
    return page(
        403,
        "The SIM card does not trust this page",
        why,
        "Do not go on if you are unsure about the network you use. If it happens on your own operator's network, "
        "ask its support to check the SIM card.",
    )


def not_ready(why: str) -> Page:
    """The agent or the card is not ready."""
    return page(503, "The SIM card is not ready", why, "Put that right, then try again.")


def not_allowed(why: str) -> Page:
    """A WebSocket that nobody but the operator's page may open."""
    return page(403, "Not allowed", why, "Open the operator's page in the browser of this device.")


def no_key(why: str) -> Page:
    """There is no bootstrapped key."""
    return page(502, "The log-in keys cannot be had", why, "Check the network connection, then try again.")


def for_agent_error(kind: str, message: str) -> Page:
    """Return the page for an ``AgentError``."""
    if kind == "bsf":
        return no_key(message)
    if kind == "phishing":
        return login_refused(message)
    return wrong_network(message) if kind == "wrong-network" else not_ready(message)
