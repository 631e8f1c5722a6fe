"""Wardgate: every device behind the gateway gets exactly as much network as its latest evidence earns."""

__version__ = "0.1.0"
