"""Exit codes of a supervisor and of the processes that it starts: the one language that all engines understand."""

DONE = 0
"""Done and marked complete, also when it was complete already."""

INTERRUPTED = 75
"""Stopped on request, resumable (EX_TEMPFAIL of sysexits.h)."""

CONFIGURATION = 78
"""What the spec or the set-up decides: never retry (EX_CONFIG of sysexits.h). Also: attempts used up."""

FAILED = 1
"""Anything else."""
