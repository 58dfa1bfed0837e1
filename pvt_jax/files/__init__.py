"""Files of people: which are images, pixels and label values as the file means them, text as editors write it."""
