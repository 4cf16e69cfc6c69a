"""A miniature of an LLM serving engine. Import the modules you need; nothing is loaded here."""

__version__ = "0.1.0"
