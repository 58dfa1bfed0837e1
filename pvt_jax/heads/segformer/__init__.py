"""SegFormer's head."""
