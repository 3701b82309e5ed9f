"""Stories: which pod, container and exec a call is about, and which call caused it. Calls in, places out."""
