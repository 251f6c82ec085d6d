"""ConfigDicts: the network and schedule that one describes, and its validation."""
