"""The forms of an answer: flat rows of it, as a table for people, as JSON and as CSV for programs."""
