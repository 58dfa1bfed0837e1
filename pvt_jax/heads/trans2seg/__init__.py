"""Trans2Seg."""
