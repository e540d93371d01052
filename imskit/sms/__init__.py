"""Short messages: what a SIP MESSAGE of SMS over IP carries (TS 23.038, TS 23.040, TS 24.011)."""
