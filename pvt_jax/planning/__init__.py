"""What a training run needs of devices that are not here, from its compiled step."""
