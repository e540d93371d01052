"""Ports that look like a modem's.  Readers are listed in ``test_pcsc``."""

from __future__ import annotations

from pathlib import Path

import pytest
from serial.tools import list_ports
from serial.tools.list_ports_common import ListPortInfo

from ue_agent.uicc.inventory import ModemPort, modem_ports


def _port(device: str, vid: int | None, manufacturer: str | None = None, product: str | None = None) -> ListPortInfo:
    port = ListPortInfo(device, True)
    port.vid, port.manufacturer, port.product = vid, manufacturer, product
    return port


def test_modems_and_not_every_serial_adaptor(monkeypatch: pytest.MonkeyPatch) -> None:
    ports = [
        _port("/dev/ttyUSB3", 0x2C7C, "Quectel", "EC25-EU"),
        _port("/dev/ttyUSB2", 0x1199),
        _port("/dev/ttyUSB0", 0x0403, "FTDI", "FT232R USB UART"),
        _port("/dev/ttyACM0", 0x8087, "Intel", "Mobile Broadband"),
        _port("/dev/ttyS0", None),
    ]
    monkeypatch.setattr(list_ports, "comports", lambda: ports)
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter([Path("/dev/wwan0at0")]))
    assert modem_ports() == (
        ModemPort(Path("/dev/ttyACM0"), "Intel Mobile Broadband"),
        ModemPort(Path("/dev/ttyUSB2"), "Sierra Wireless"),
        ModemPort(Path("/dev/ttyUSB3"), "Quectel EC25-EU"),
        ModemPort(Path("/dev/wwan0at0"), "WWAN device"),
    )
    assert str(modem_ports()[1].source) == "modem:/dev/ttyUSB2"
