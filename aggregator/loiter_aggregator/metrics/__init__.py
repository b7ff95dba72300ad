"""Figures for Prometheus: of the fleet, and of the aggregator itself."""
