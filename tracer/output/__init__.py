"""What people and programs read: calls and findings as lines of text or as JSON. In: updates. Out: lines."""
