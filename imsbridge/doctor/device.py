"""What any device needs: codecs, the card service, what the lab stands on."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator

from imsbridge.doctor.finding import Finding

_LAB_PROGRAMS = {
    "chromium": "chromium",
    "pcscd": "pcscd",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "espeak-ng": "espeak-ng",
    "npm": "npm",
}


def device() -> Iterator[Finding]:
    """Look at this device, whatever it is to do."""
    yield _python()
    yield from _codecs()
    yield _card_service()
    yield from _lab()


def _python() -> Finding:
    return Finding("Python", "ok", ".".join(map(str, sys.version_info[:3])))


def _codecs() -> Iterator[Finding]:
    from imskit.media.codecs import CodecSpec, CodecUnavailableError, make_decoder, make_encoder

    for name in ("opus", "AMR-WB", "AMR"):
        spec = CodecSpec(name)
        try:
            make_encoder(spec, 16000)
            make_decoder(spec, 16000)
        except CodecUnavailableError as error:
            yield Finding(f"codec {name}", "bad", "not installed", str(error))
        else:
            yield Finding(f"codec {name}", "ok", "installed")


def _card_service() -> Finding:
    from ue_agent.uicc.errors import NoDaemonError
    from ue_agent.uicc.inventory import readers

    try:
        found = [reader.name for reader in readers()]
    except NoDaemonError as error:
        return Finding("PC/SC", "warn", str(error), "apt-get install pcscd; systemctl start pcscd")
    if not found:
        return Finding("PC/SC", "warn", "no card reader", "plug a reader in, or use imsbridge sim card run --pcscd")
    return Finding("PC/SC", "ok", ", ".join(found))


def _lab() -> Iterator[Finding]:
    missing = {
        program: package
        for program, package in _LAB_PROGRAMS.items()
        if shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None
    }
    if missing:
        packages = " ".join(sorted(set(missing.values())))
        yield Finding("lab programs", "warn", f"missing: {', '.join(missing)}", f"apt-get install {packages}")
    else:
        yield Finding("lab programs", "ok", "all there")
    yield _namespaces()


def _namespaces() -> Finding:
    """A child tries what the demo will do."""
    child = os.fork()
    if child == 0:
        try:
            flags = os.CLONE_NEWNET | os.CLONE_NEWNS
            os.unshare(flags if os.getuid() == 0 else flags | os.CLONE_NEWUSER)
        except OSError:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status == 0:
        return Finding("lab namespaces", "ok", "the demo needs no root here")
    return Finding("lab namespaces", "warn", "the kernel refuses network namespaces", "run imsbridge demo with sudo")
