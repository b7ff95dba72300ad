"""What the agent and the aggregator share: the wire contract (`v1`), its limits, and how settings are read."""
