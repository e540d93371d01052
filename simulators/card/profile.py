"""Moved to imskit/uicc/profile.py; edit it there.  This name goes when nothing imports it any more."""

from imskit.uicc.profile import *  # noqa: F403
