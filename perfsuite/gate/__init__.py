"""The latency gate: samples in pairs, a verdict from them, and the baselines that they are held against."""
