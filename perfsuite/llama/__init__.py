"""What knows the runtime: the ladder of stages, the diagnosis with its cost model, and the unsplit model.

Nothing outside this package and the benchmarks imports the runtime, torch or transformers.
"""
