"""Devices of this process, and processes of one program."""
