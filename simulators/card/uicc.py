"""Moved to imskit/uicc/uicc.py; edit it there.  This name goes when nothing imports it any more."""

from imskit.uicc.uicc import *  # noqa: F403
