"""Standalone scripts that run inside the sandbox; standard library only, nothing imported here."""
