"""SegFormer's all-MLP decoder."""
