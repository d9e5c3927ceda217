"""A push service on loopback that answers every push with the bytes it was given, whatever they are, and hangs up.

It reads one request as far as it announces itself, on a thread of its own that ends with the process.
"""

import socket
import threading


class AnyService:
    """`answer` is what the next push is answered with."""

    def __init__(self) -> None:
        self.answer = b""
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.origin = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            peer, _ = self._listening.accept()
            with peer:
                peer.settimeout(1.0)
                try:
                    self._converse(peer)
                except OSError:  # the server under test has heard enough
                    continue

    def _converse(self, peer: socket.socket) -> None:
        heard = b""
        while b"taube\r\n\r\n" not in heard and (part := peer.recv(65_536)):  # the last header names the topic
            heard += part
        peer.sendall(self.answer)
        peer.shutdown(socket.SHUT_WR)
        while peer.recv(65_536):
            pass
