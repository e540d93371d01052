"""How the WWPF shows the SIF that a WebSocket comes from the operator's page in the log-in browser.

The WWPF has then checked the page's origin, the log-in with the card, and the program at the other end.  The secret
is made at each start of the agent and known to both; nobody else can open a connection that the SIF accepts.
"""

from __future__ import annotations

import secrets

from imskit.secrets import Secret

SECRET_HEADER = "Imsbridge-Handover"
"""Header of the WebSocket request to the SIF; a copy that a client sends is taken out."""


def new_secret() -> Secret[str]:
    """Return a fresh secret for one start of the agent."""
    return Secret(secrets.token_urlsafe(32))


def is_genuine(value: str | None, secret: Secret[str]) -> bool:
    """Check the header's value, in constant time."""
    return value is not None and value.isascii() and Secret(value) == secret
