"""The store: what agents reported, kept in DuckDB. Only the aggregator's own process opens it."""
