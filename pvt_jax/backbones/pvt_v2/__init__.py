"""PVT v2 and MiT."""
