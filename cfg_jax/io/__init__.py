"""Files, pictures, logged metrics and progress."""
