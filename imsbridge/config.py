"""``imsbridge config sample NAME``: configuration files with every setting explained."""

from __future__ import annotations

import argparse
from typing import Any

from imskit.config.model import sample


def _models() -> dict[str, type[Any]]:
    from imskit.uicc.profile import CardProfile
    from network_edge.config import EdgeConfig
    from network_edge.eims_agw.config import AgwConfig
    from network_edge.ep_cscf.config import EpCscfConfig
    from network_edge.wwsf.config import WwsfConfig
    from simulators.bsf.config import BsfConfig
    from simulators.ims_core.config import CoreConfig
    from simulators.lab.compare.configured import SystemsConfig
    from simulators.phone.config import PhoneConfig
    from ue_agent.card_bench.lab_hss import LabKeys
    from ue_agent.config import UeConfig

    return {
        "ue": UeConfig,
        "edge": EdgeConfig,
        "wwsf": WwsfConfig,
        "ep-cscf": EpCscfConfig,
        "eims-agw": AgwConfig,
        "core": CoreConfig,
        "phone": PhoneConfig,
        "card": CardProfile,
        "card-keys": LabKeys,
        "bsf": BsfConfig,
        "compare": SystemsConfig,
    }


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``config`` to the command line."""
    parser = subparsers.add_parser("config", help="sample configuration files")
    commands = parser.add_subparsers(dest="config_command", required=True)
    show = commands.add_parser(
        "sample",
        help="print a configuration file with every setting explained",
        description="Prints a TOML file: fill in what is empty; what is commented out shows the default.",
    )
    show.add_argument(
        "name",
        choices=("ue", "edge", "wwsf", "ep-cscf", "eims-agw", "core", "phone", "card", "card-keys", "bsf", "compare"),
        help="whose configuration",
    )
    show.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the sample."""
    print(sample(_models()[arguments.name]), end="")
    return 0
