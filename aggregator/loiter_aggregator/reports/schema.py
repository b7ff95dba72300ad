"""The tables that say what became of scheduled reports (SQLite)."""

from __future__ import annotations

from typing import Final

# A report of a time is built once, and once more, as another edition, where a clock that was ahead had it built early.
CREATE: Final = """
CREATE TABLE IF NOT EXISTS installation (id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS schedule (name TEXT PRIMARY KEY, timing TEXT NOT NULL, looked INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS run (
    id INTEGER PRIMARY KEY AUTOINCREMENT, schedule TEXT NOT NULL, due INTEGER NOT NULL,
    edition INTEGER NOT NULL DEFAULT 0, state TEXT NOT NULL, built INTEGER, boot TEXT,
    uptime INTEGER, next_try INTEGER NOT NULL DEFAULT 0, error TEXT NOT NULL DEFAULT '', title TEXT NOT NULL DEFAULT '',
    report BLOB, UNIQUE (schedule, due, edition));
CREATE TABLE IF NOT EXISTS delivery (
    id INTEGER PRIMARY KEY AUTOINCREMENT, run INTEGER NOT NULL REFERENCES run ON DELETE CASCADE, target TEXT NOT NULL,
    state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, next_try INTEGER NOT NULL DEFAULT 0, delivered INTEGER,
    error TEXT NOT NULL DEFAULT '', UNIQUE (run, target));
CREATE TABLE IF NOT EXISTS attempt (
    delivery INTEGER NOT NULL REFERENCES delivery ON DELETE CASCADE, time INTEGER NOT NULL, error TEXT);
CREATE INDEX IF NOT EXISTS delivery_state ON delivery (state);
CREATE INDEX IF NOT EXISTS attempt_delivery ON attempt (delivery);
"""
