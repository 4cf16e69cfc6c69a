"""`make bench`: what the harness itself costs, as ratios within one run."""
