"""One page to look at: the ladder, the diagnosis, the gate's verdicts and the history."""
