"""The guest has what the other tests of this folder rest on."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def test_it_is_a_kernel_of_its_own_with_esp_and_netem() -> None:
    assert os.getuid() == 0
    loaded = {line.split()[0] for line in Path("/proc/modules").read_text().splitlines()}
    assert {"esp4", "esp6", "xfrm_user", "sch_netem", "tun", "veth"} <= loaded


def test_it_shares_no_network_with_the_machine() -> None:
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split(": ")[1] for line in links if "sit0" not in line] == ["lo"]
