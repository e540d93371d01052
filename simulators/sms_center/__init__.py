"""The message centre of the operator: SMS over IP (IP-SM-GW, TS 23.204, TS 24.341)."""
