"""``perfsuite compare``: a git revision's runtime against this one's, in alternation on this machine."""
