"""The forms of a report: HTML, Markdown, JSON, CSV, and what goes into e-mails and messages."""
