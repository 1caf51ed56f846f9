"""A passage between a node and its coordinator that records what goes through.

Listens on a free port and passes bytes on unchanged. The WebSocket frames of both directions are
unmasked, so that nothing hides in the mask that WebSocket puts over what a node sends.
"""

import os
import socket
import threading
from urllib.parse import urlparse

KINDS = {1: "text", 2: "binary"}


class Wire:
    """Records into a folder: `<direction>.text` and `<direction>.binary`."""

    def __init__(self, target, folder):
        self._target = (urlparse(target).hostname, urlparse(target).port)
        self.folder = folder
        os.makedirs(folder)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            near, _ = self._listener.accept()
            far = socket.create_connection(self._target)
            for name, source, sink in (
                ("to_coordinator", near, far),
                ("to_node", far, near),
            ):
                recorder = Recorder(os.path.join(self.folder, name))
                run = threading.Thread(target=pass_on, args=(source, sink, recorder.see), daemon=True)
                run.start()


def pass_on(source, sink, see, most=1 << 16):
    """Passes on what `see` returns of what comes, until there is nothing more."""
    try:
        while data := see(source.recv(most)):
            sink.sendall(data)
    except OSError:
        pass
    for end in (source, sink):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


class Recorder:
    """Takes one direction of a connection apart: an HTTP head, then WebSocket frames."""

    def __init__(self, path):
        self._path = path
        self._data = b""
        self._is_web_socket = False

    def see(self, data):
        self.feed(data)
        return data

    def feed(self, data):
        self._data += data
        if not self._is_web_socket:
            head, end, rest = self._data.partition(b"\r\n\r\n")
            if not end:
                return
            if b"upgrade: websocket" not in head.lower():
                # An exchange of a key; nothing of it belongs to the hop.
                self._data = b""
                return
            self._is_web_socket = True
            self._data = rest
        while self._take_frame():
            pass

    def _take_frame(self):
        data = self._data
        if len(data) < 2:
            return False
        kind, masked, size, at = data[0] & 0x0F, data[1] >> 7, data[1] & 0x7F, 2
        if size >= 126:
            width = 2 if size == 126 else 8
            size, at = int.from_bytes(data[at : at + width], "big"), at + width
        mask = data[at : at + 4] if masked else bytes(4)
        at += 4 if masked else 0
        if len(data) < at + size:
            return False
        payload = bytes(b ^ mask[i % 4] for i, b in enumerate(data[at : at + size]))
        if kind in KINDS:
            with open(f"{self._path}.{KINDS[kind]}", "ab") as file:
                file.write(payload + b"\n")
        self._data = data[at + size :]
        return True
