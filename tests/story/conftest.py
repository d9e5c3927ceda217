"""The fixtures of `taube.testing`, as a bot's own tests would have them by `pytest_plugins`, and one more."""

import pytest

from taube.testing import Person, Server, alice, bob, people, taube_server

__all__ = ["alice", "bob", "people", "somebody", "taube_server"]


@pytest.fixture(scope="session")
def somebody(taube_server: Server) -> Person:
    """Someone with an account and no chats, for tests that leave no trace."""
    return taube_server.person("somebody")
