"""Ranks hosts, processes and applications: queries against the store, and what their columns mean.

The SQL keeps to what both DuckDB and a column store such as ClickHouse run: integer epochs, sums, max, count, argMax
and integer buckets; regressions are computed from sums.
"""
