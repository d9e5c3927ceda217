"""The fixtures of `taube.testing`, as a bot's own tests would have them by `pytest_plugins`."""

from taube.testing import alice, bob, people, taube_server

__all__ = ["alice", "bob", "people", "taube_server"]
