"""The roads between the two processes, behind one small interface."""
