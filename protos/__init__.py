"""The schemas of every API on every hop, and the registry over them."""
