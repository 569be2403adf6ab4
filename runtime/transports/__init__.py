"""The transports between the two processes, behind one small interface."""
