"""The web page: everything that FleetService answers, to look at."""
