"""Answers every question about the fleet, whoever asks: FleetService, the web page, reports, alerts, metrics."""
