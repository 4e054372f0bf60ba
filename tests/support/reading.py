"""Reading a socket up to what is looked for, from either side."""

import socket
import struct


class SocketReader:
    """A socket, and what has come on it that nobody has asked for yet."""

    gone: type[OSError] = OSError
    """What counts as the peer's hanging up."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._rest = b""

    def read_until(self, mark: bytes) -> bytes:
        """Return everything up to and with a mark; less if the peer hung up."""
        while mark not in self._rest:
            data = self._recv()
            if not data:
                break
            self._rest += data
        head, found, self._rest = self._rest.partition(mark)
        return head + found

    def read_exactly(self, count: int) -> bytes:
        """Return so many bytes; less if the peer hung up."""
        parts, left = [self._rest], count - len(self._rest)
        while left > 0:
            data = self._recv()
            if not data:
                break
            parts.append(data)
            left -= len(data)
        data = b"".join(parts)
        data, self._rest = data[:count], data[count:]
        return data

    def read_head(self) -> bytes:
        """Return a message's head."""
        return self.read_until(b"\r\n\r\n")

    def reset(self) -> None:
        """Close with a reset, as a browser's closed tab does."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def _recv(self) -> bytes:
        try:
            return self.sock.recv(65536)
        except self.gone:
            return b""
