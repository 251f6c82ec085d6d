"""What a ConfigDict means: the network and schedule it describes, and whether it is valid."""
