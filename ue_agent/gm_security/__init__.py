"""How the agent protects Gm: what its configuration says, and what this device can do."""
