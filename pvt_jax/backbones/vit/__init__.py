"""ViT, and DeiT's weights."""
