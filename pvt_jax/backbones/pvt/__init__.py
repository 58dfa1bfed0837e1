"""PVT v1."""
