"""Mask R-CNN, Faster R-CNN and ViT-FRCNN."""
