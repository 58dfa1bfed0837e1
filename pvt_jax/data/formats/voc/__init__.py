"""Pascal VOC's XML format."""
