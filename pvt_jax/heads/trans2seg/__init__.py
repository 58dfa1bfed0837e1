"""Trans2Seg's head."""
