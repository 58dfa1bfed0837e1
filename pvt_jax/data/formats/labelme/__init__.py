"""labelme's JSON format."""
