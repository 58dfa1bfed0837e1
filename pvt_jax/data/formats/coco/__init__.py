"""COCO's JSON format."""
