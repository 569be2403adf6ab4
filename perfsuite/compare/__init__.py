"""``perfsuite compare`` and ``bisect``: git revisions against each other, in alternation on this machine."""
