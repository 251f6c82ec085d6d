"""Files, pictures, logged numbers and progress."""
