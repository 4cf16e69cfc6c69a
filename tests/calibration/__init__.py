"""How often the quickstart gets the verdict that its agents were made for, over many sessions."""
