"""What an installation puts on the device so that an unmodified browser uses the agent: policies, proxy file.

Nothing here reaches the page, and nothing is a command-line flag: Chromium reads managed policies from
``/etc/chromium/policies/managed/*.json`` (Google Chrome: ``/etc/opt/chrome/policies/managed``).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

from ue_agent.wwpf.config import Address, Site


def browser_policies(
    *, ca_der: bytes, pac_url: str, portals: Sequence[Site], operator_domains: Sequence[str]
) -> dict[str, Any]:
    """Return Chromium's managed policy as a JSON object.

    It trusts the device's own CA (which its name constraints bind to the operator's domains), takes the proxy
    settings from ``pac_url``, leaves names to the system's resolver, and lets the portals use the microphone.
    """
    return {
        "CACertificates": [base64.b64encode(ca_der).decode()],
        # Not mandatory: when the agent is stopped, the rest of the web still works.
        "ProxySettings": {"ProxyMode": "pac_script", "ProxyPacUrl": pac_url, "ProxyPacMandatory": False},
        "DnsOverHttpsMode": "off",
        "AudioCaptureAllowedUrls": [site.origin for site in portals],
        # A safety net: a page that comes through a proxy on this device is not subject to these checks.
        "LocalNetworkAccessAllowedForUrls": [f"https://[*.]{domain}" for domain in operator_domains],
    }


def proxy_script(proxy: Address, operator_domains: Sequence[str], direct_hosts: Sequence[str] = ()) -> str:
    """Return the proxy auto-configuration file: the operator's hosts through ``proxy``, all else past it."""
    return f"""\
var domains = {json.dumps(list(operator_domains))};
var direct = {json.dumps(list(direct_hosts))};
function FindProxyForURL(url, host) {{
  host = host.toLowerCase();
  if (host.charAt(host.length - 1) === ".") host = host.substring(0, host.length - 1);
  if (direct.indexOf(host) >= 0) return "DIRECT";
  for (var i = 0; i < domains.length; i++) {{
    if (host === domains[i] || dnsDomainIs(host, "." + domains[i])) return "PROXY {proxy}";
  }}
  return "DIRECT";
}}
"""
