"""Reports: what became of every planned trial, and what that supports."""
