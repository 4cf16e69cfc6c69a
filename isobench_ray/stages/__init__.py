"""The stages of a commit's path, as straight lines of code that know nothing of Ray."""
