"""The RTC Media Interworking Function: media of a call between the page and IMS."""

from __future__ import annotations

from ue_agent.rmf.rmf import Call, CallStats, OnCallEvent, Rmf

__all__ = ["Call", "CallStats", "OnCallEvent", "Rmf"]
