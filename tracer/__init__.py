"""The application: get between, record, decode, correlate, show."""

__version__ = "0.1.0.dev0"
