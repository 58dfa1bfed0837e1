"""YOLO's text format, as Ultralytics defines it."""
