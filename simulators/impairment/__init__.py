"""A worse network, on purpose: loss, delay, jitter and rate on a link of the lab."""
