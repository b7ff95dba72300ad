"""A fleet that there is not: a seeded model of hosts, their real reports, and what sends them."""
