"""Samples as fresh processes: a child pytest session runs one test up to its gate and serves what it gates."""
