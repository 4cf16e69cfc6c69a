"""The leak audit on commits of a real history that lies on this machine."""
