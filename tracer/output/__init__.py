"""What people and programs read: calls and findings as lines of text or as JSON. In: updates. Out: lines."""

JSON_VERSION = 1
"""Of the shapes in docs/json.md: `v` of each object."""
