"""Rules over the fleet: when one is broken for long enough, an alert fires, and is pushed to Alertmanager."""
