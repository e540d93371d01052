"""Which back end does IPsec on this machine, and why."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from imskit.ipsec.algorithms import STANDARD_PAIRS, AlgorithmPair
from imskit.ipsec.errors import IpsecError
from imskit.ipsec.io.backend import IpsecBackend
from imskit.ipsec.io.kernel import KernelBackend, examine_kernel
from imskit.ipsec.io.userspace import UserspaceBackend

_log = logging.getLogger(__name__)

type Preference = Literal["auto", "kernel", "userspace"]


@dataclass(frozen=True, slots=True)
class Choice:
    """A back end, open, and a sentence for people that says why it was taken."""

    backend: IpsecBackend
    why: str


async def choose(
    preference: Preference,
    *,
    pairs: Sequence[AlgorithmPair] = STANDARD_PAIRS,
    interface: str | None = None,
    nat: bool = False,
) -> Choice:
    """Open the back end that ``preference`` names; ``auto``: the kernel if it does all of ``pairs``, else userspace.

    ``interface``: the one that ESP leaves and enters by (userspace; the kernel's follows the routes).  ``nat``: there
    may be one between the ends, which the kernel's tunnels do not get through (``kernel``).  ``IpsecError`` if what
    was asked for, or for ``auto`` either of them, does not work here; it says why and what to do.
    """
    if preference == "auto" and nat:
        choice = Choice(await UserspaceBackend.open(interface=interface), "there may be a NAT on the way")
    else:
        choice = await _choose(preference, pairs, interface)
    _log.info("IPsec: %s back end: %s", choice.backend.kind, choice.why)
    return choice


async def _choose(preference: Preference, pairs: Sequence[AlgorithmPair], interface: str | None) -> Choice:
    if preference == "userspace":
        return Choice(await UserspaceBackend.open(interface=interface), "the configuration asks for it")
    try:
        examine_kernel(pairs)
        backend = KernelBackend()
    except IpsecError as kernel:
        if preference == "kernel":
            raise
        why = kernel.what + (f" ({kernel.why})" if kernel.why else "")
        try:
            return Choice(await UserspaceBackend.open(interface=interface), why)
        except IpsecError as userspace:
            raise IpsecError("no IPsec on this machine", f"kernel: {kernel}; userspace: {userspace}") from userspace
    if preference == "kernel":
        return Choice(backend, "the configuration asks for it, and the kernel has all that is needed")
    return Choice(backend, "the kernel has ESP and every algorithm that may be agreed on")
