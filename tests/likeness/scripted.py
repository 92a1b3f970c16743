"""A server that answers as it is told, byte by byte."""

import socket
import threading
import time


def answer(status: int, body: bytes, *headers: str) -> bytes:
    head = "\r\n".join([f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Connection: close", *headers])
    return head.encode() + b"\r\n\r\n" + body


def error(status: int, code: str, *headers: str) -> bytes:
    body = f'{{"error": {{"code": "{code}", "message": "No.", "details": {{}}}}, "request_id": "r1"}}'
    return answer(status, body.encode(), *headers)


HANG, RESET = b"hang", b""


class Scripted:
    """Answers one connection after the other with what it is given; RESET closes it, HANG says nothing for long."""

    def __init__(self, *answers: bytes) -> None:
        self.heads: list[str] = []
        self.times: list[float] = []
        self._answers = list(answers)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._held: list[socket.socket] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def __enter__(self) -> "Scripted":
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for open_socket in (self._listener, *self._held):
            open_socket.close()

    def _run(self) -> None:
        for content in self._answers:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            received = b""
            while b"\r\n\r\n" not in received:
                received += connection.recv(65536)
            head, _, body = received.partition(b"\r\n\r\n")
            self.heads.append(head.decode())
            self.times.append(time.monotonic())
            announced = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            missing = int(announced[0].split(b":")[1]) - len(body) if announced else 0
            while missing > 0:
                missing -= len(connection.recv(missing))
            if content == HANG:
                self._held.append(connection)
                continue
            connection.sendall(content)
            connection.close()

    def header(self, name: str) -> list[str]:
        """A header of each request."""
        lines = [dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:]) for head in self.heads]
        return [line[name] for line in lines if name in line]
