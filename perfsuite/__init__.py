"""Measures the split runtime from outside, through its public interface alone."""
