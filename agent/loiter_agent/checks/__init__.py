"""What this host lets the agent see, one topic a module, each with a remedy for what is missing. Not used by `run`."""
